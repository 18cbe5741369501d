// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "routing/drop_cold.h"

#include <cmath>

namespace moe_mobile {

void drop_cold(double fraction, const Ranking& ranking, const uint8_t* cached, Selection* out) {
  // Softmax shares do not change if the same number is subtracted from all logits: take the best
  // selected one.
  const double best = ranking.z[out->experts[0]];
  const auto mass = [&](uint32_t expert) {
    return ranking.scores != nullptr ? static_cast<double>(ranking.scores[expert])
                                     : std::exp(ranking.z[expert] - best);
  };
  double sum = 0;  // may be 0 with sigmoids; then nothing is dropped
  for (const uint32_t expert : out->experts) sum += mass(expert);
  for (size_t rank = 1; rank < out->experts.size(); ++rank) {
    const uint32_t expert = out->experts[rank];
    if (cached[expert] == 0 && mass(expert) / sum < fraction / ranking.top_k)
      out->dropped[rank] = 1;
  }
}

void move_dropped_weights(Selection* out) {
  float all = 0, kept = 0;
  for (size_t rank = 0; rank < out->weights.size(); ++rank) {
    all += out->weights[rank];
    if (out->dropped[rank] != 0) {
      out->weights[rank] = 0;
    } else {
      kept += out->weights[rank];
    }
  }
  if (kept == all || kept == 0) return;
  for (float& weight : out->weights) weight *= all / kept;
}

}  // namespace moe_mobile
