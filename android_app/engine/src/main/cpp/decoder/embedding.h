// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/span.h"
#include "bundle/manifest.h"

namespace moe_mobile {

// The embedding table on flash: a row is read when its token is used. The engine verifies the
// file's SHA-256 at open; this class trusts its bytes but not its length.
class EmbeddingTable {
 public:
  // kBundleInvalid if the file's length is not vocab_size x row_bytes.
  EmbeddingTable(const std::string& path, const EmbeddingSpec& spec, uint32_t vocab_size,
                 uint32_t hidden_size);

  // One row as hidden_size floats. kUsage for a token id outside the vocabulary.
  void row(uint32_t token, float* out);
  // out is [tokens.size(), hidden_size].
  void rows(Span<const uint32_t> tokens, float* out);

 private:
  std::string path_;
  UniqueFd fd_;
  bool int8_;
  uint64_t row_bytes_;
  uint32_t vocab_size_;
  uint32_t hidden_size_;
  std::vector<uint8_t> row_;
};

}  // namespace moe_mobile
