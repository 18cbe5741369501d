// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

namespace moe_mobile {

// The experts of one token in one layer, in rank order: best first.
struct Selection {
  std::vector<uint32_t> experts;
  std::vector<float> weights;
};

// Exact routing, as transformers computes it: float32 softmax over all `num_experts` logits, the
// `top_k` largest taken with ties to the lower index, their probabilities as weights, divided by
// their sum where `renormalize`. kRuntime if a logit is NaN or infinite: the programs before it are
// broken.
void select_exact(const float* logits, uint32_t num_experts, uint32_t top_k, bool renormalize,
                  Selection* out);

}  // namespace moe_mobile
