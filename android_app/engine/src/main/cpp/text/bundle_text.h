// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/span.h"
#include "bundle/bundle.h"

namespace moe_mobile {

// Text from the tokens that follow a prompt. Destroys no character: what is not complete yet comes
// with a later token.
class TextStream {
 public:
  virtual ~TextStream() = default;
  // The text that is complete now that this token came; often empty.
  virtual std::string step(uint32_t token) = 0;
  // What was held back.
  virtual std::string finish() = 0;
};

// A bundle's tokenizer and chat template. The same ids and chats as moe_mobile/text in Python.
class BundleText {
 public:
  // Why there is no text for this bundle; empty if there is. Reads no file.
  static std::string missing(const Bundle& bundle);
  // Reads and checks the files. kUnsupported if this program was built without text, kUsage without
  // a tokenizer, kBundleInvalid for one that cannot be used, and what Bundle::read_verified()
  // throws.
  static std::unique_ptr<BundleText> open(const Bundle& bundle);
  virtual ~BundleText() = default;

  // `request`: the text of a JSON object with `text`, or with `messages` and, if it has them,
  // `chat_template_kwargs` (docs/runner.md). kUsage if it cannot be written or is too long,
  // kBundleInvalid if the template or the tokenizer fails.
  virtual std::vector<uint32_t> encode(const std::string& request) const = 0;
  // The text whose ids encode() gives.
  virtual std::string render(const std::string& request) const = 0;
  virtual std::string decode(Span<const uint32_t> ids) const = 0;
  virtual std::unique_ptr<TextStream> stream(Span<const uint32_t> prompt) const = 0;
};

}  // namespace moe_mobile
