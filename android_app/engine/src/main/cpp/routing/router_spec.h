// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace moe_mobile {

enum class Scoring {
  kSoftmax,  // sorts logits, weighs with their softmax
  kSigmoid,  // sorts sigmoids plus a bias, weighs with the sigmoids (DeepSeek-V3, arXiv 2412.19437)
  kRelu,  // sorts logits, weighs with max(logit, 0); only logits above 0 are eligible, so a token
          // has 0 to top_k experts (ReMoE, arXiv 2412.14711)
};

// How the routers of a model select and weigh; docs/bundle-format.md has the formulas.
struct RouterSpec {
  uint32_t num_experts = 0;
  uint32_t top_k = 0;
  Scoring scoring = Scoring::kSoftmax;
  bool renormalize = false;  // the selected weights are divided by their sum + epsilon
  float epsilon = 0;
  float scale = 1;  // of all weights, after renormalising
  // Experts come in `groups` equal runs; only those of the best `top_groups` are eligible.
  // A group's score is its best expert (softmax, relu) or the sum of its two best (sigmoid).
  uint32_t groups = 1;
  uint32_t top_groups = 1;
  std::vector<float> bias;  // [layers, experts], for sorting sigmoids only; empty: none
};

// The scoring with this name in a bundle. kUsage for an unknown name.
Scoring parse_scoring(const std::string& name);

// kUsage naming the invalid setting.
void check_router(const RouterSpec& spec, uint32_t num_layers);

}  // namespace moe_mobile
