// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <functional>
#include <optional>

#include "decoder/sampler.h"
#include "engine/cancellation.h"
#include "engine/engine.h"

namespace moe_mobile {

// Tokens that are generated at most if nobody says.
constexpr uint32_t kDefaultNewTokens = 128;

// One generation, a token at a time, so that each host can stream in its own way.
class Generator {
 public:
  // Appends the prompt, with `progress` after each of its batches; the first token is ready for
  // next() afterwards. kUsage for an empty prompt or bad sampling.
  Generator(Engine* engine, Span<const uint32_t> prompt, uint32_t max_new_tokens,
            const SamplingSettings& sampling, bool ignore_eos, const Progress& progress);

  // The next token, or nothing at the end. An end-of-sequence token ends the generation and is not
  // returned. kUsage if the engine was reset since: another conversation has begun. kCancelled if
  // the engine's work was cancelled: the generation is over.
  std::optional<uint32_t> next();
  // Why it ended; valid once next() returned nothing.
  const char* stop() const { return stop_; }
  // The logits [vocab] that the last token was sampled from; valid until the engine runs again.
  // Null before the first token.
  const float* logits() const { return logits_; }
  const ModelInfo& model() const { return engine_->model(); }

 private:
  Engine* engine_;
  uint64_t conversation_;
  Cancellation cancellation_;
  Sampler sampler_;
  uint32_t remaining_;
  bool ignore_eos_;
  bool ended_ = false;
  const float* logits_ = nullptr;
  std::optional<uint32_t> previous_;
  const char* stop_ = "length";
};

// Teacher forcing, one token at a time as decoding does: calls `row` with the logits [vocab] that
// follow each token. All ids are checked first (kUsage). kCancelled after the token at which the
// engine's work was cancelled.
void score(Engine* engine, Span<const uint32_t> tokens,
           const std::function<void(size_t index, const float* logits)>& row);

// Log-probability of `token` under the logits, in double.
double log_probability(const float* logits, uint32_t vocab_size, uint32_t token);

}  // namespace moe_mobile
