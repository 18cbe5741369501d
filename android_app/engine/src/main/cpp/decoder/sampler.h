// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

namespace moe_mobile {

struct SamplingSettings {
  float temperature = 0;  // 0: greedy
  uint32_t top_k = 0;     // 0: off
  float top_p = 1;        // 1: off
  uint64_t seed = 0;
};

// Draws tokens from logits. Equal seeds and logits give equal tokens on every platform: the n-th
// draw uses SplitMix64 at counter n, a counter-based generator, and all arithmetic is IEEE double
// in a fixed order.
class Sampler {
 public:
  // kUsage for settings out of range: temperature finite and >= 0, 0 < top_p <= 1.
  Sampler(const SamplingSettings& settings, uint32_t vocab_size);

  // The next token. Greedy takes the largest logit, ties to the lower id. Otherwise: divide by the
  // temperature, keep the top_k largest (ties to the lower id), softmax, keep the smallest set of
  // the most probable whose sum reaches top_p, draw.
  // REQUIRES: no logit is NaN or +infinity, and not all are -infinity.
  uint32_t sample(const float* logits);

 private:
  uint32_t draw(const float* logits);

  SamplingSettings settings_;
  uint32_t vocab_size_;
  uint64_t draws_ = 0;
  std::vector<uint32_t> order_;
  std::vector<double> weights_;
};

}  // namespace moe_mobile
