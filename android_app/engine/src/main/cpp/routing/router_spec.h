// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

namespace moe_mobile {

enum class Scoring {
  kSoftmax,  // sorts logits, weighs with their softmax
  kSigmoid,  // sorts sigmoids plus a bias, weighs with the sigmoids (DeepSeek-V3)
};

// How the routers of a model select and weigh.
struct RouterSpec {
  uint32_t num_experts = 0;
  uint32_t top_k = 0;
  bool renormalize = false;  // the selected weights are divided by their sum
  Scoring scoring = Scoring::kSoftmax;
  std::vector<float> bias;  // [layers, experts], for sorting sigmoids only; empty: none
  // Experts come in `groups` equal runs; only those of the best `top_groups` are eligible.
  // A group is as good as its best expert (softmax) or the sum of its two best (sigmoid).
  uint32_t groups = 1;
  uint32_t top_groups = 1;
  float scale = 1;  // of all weights, after renormalising
};

// kUsage naming the setting that makes no sense.
void check_router(const RouterSpec& spec, uint32_t num_layers);

}  // namespace moe_mobile
