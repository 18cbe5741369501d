// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "routing/method.h"
#include "routing/router_spec.h"

namespace moe_mobile {

// The experts of one token in one layer, in rank order: best first. top_k of them, or fewer if the
// router has fewer that are eligible (relu); possibly none.
struct Selection {
  // Marks unused ranks of a token in arrays with top_k entries per token.
  static constexpr uint32_t kNone = UINT32_MAX;

  std::vector<uint32_t> experts;
  std::vector<float> weights;
  std::vector<uint8_t> dropped;  // per rank; 1: not to be read, its weight is 0
  uint32_t changed = 0;          // experts that exact routing would not have selected
};

// Turns logits into the values that the model sorts by, the exact selection, and weights.
class RouterScores {
 public:
  explicit RouterScores(const RouterSpec& spec);

  // The ranking points into the logits and into this object until the next call.
  // REQUIRES: the logits are finite.
  Ranking rank(uint32_t layer, const float* logits);
  // Weights of out->experts as the model computes them, from the logits of the last rank().
  void weigh(const Ranking& ranking, const float* logits, Selection* out) const;

 private:
  void limit_to_groups();

  const RouterSpec spec_;
  std::vector<float> z_;
  std::vector<float> scores_;
  std::vector<float> group_scores_;
  std::vector<uint32_t> group_order_;
  std::vector<uint32_t> best_;
};

}  // namespace moe_mobile
