// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "routing/router.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "base/error.h"

namespace moe_mobile {

void select_exact(const float* logits, uint32_t num_experts, uint32_t top_k, bool renormalize,
                  Selection* out) {
  if (top_k == 0 || top_k > num_experts) {
    throw Error(ErrorCode::kUsage, "",
                "the router cannot select " + std::to_string(top_k) + " of " +
                    std::to_string(num_experts) + " experts");
  }
  thread_local std::vector<float> scores;
  scores.assign(logits, logits + num_experts);
  float largest = scores[0];
  for (uint32_t e = 0; e < num_experts; ++e) {
    if (!std::isfinite(scores[e])) {
      throw Error(
          ErrorCode::kRuntime, "",
          "the router's score of expert " + std::to_string(e) + " is " + std::to_string(scores[e]),
          "The model's programs computed nonsense: verify the bundle");
    }
    largest = std::max(largest, scores[e]);
  }
  float sum = 0;
  for (float& score : scores) {
    score = std::exp(score - largest);
    sum += score;
  }
  for (float& score : scores) score /= sum;

  std::vector<uint32_t>& order = out->experts;
  order.resize(num_experts);
  std::iota(order.begin(), order.end(), 0u);
  const auto better = [](uint32_t a, uint32_t b) {
    return scores[a] > scores[b] || (scores[a] == scores[b] && a < b);
  };
  std::partial_sort(order.begin(), order.begin() + top_k, order.end(), better);
  order.resize(top_k);

  out->weights.resize(top_k);
  float selected = 0;
  for (uint32_t rank = 0; rank < top_k; ++rank) {
    out->weights[rank] = scores[order[rank]];
    selected += out->weights[rank];
  }
  if (!renormalize) return;
  for (float& weight : out->weights) weight /= selected;
}

}  // namespace moe_mobile
