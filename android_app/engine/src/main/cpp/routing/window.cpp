// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "routing/window.h"

#include <algorithm>
#include <cmath>

#include "routing/top_k.h"

namespace moe_mobile {

void WindowChooser::choose(const Ranking& ranking, uint32_t window, const uint8_t* cached,
                           uint32_t* chosen) {
  const uint32_t top_k_ = ranking.top_k;
  if (window <= top_k_) {
    std::copy(ranking.best, ranking.best + top_k_, chosen);
    return;
  }
  window = std::min(window, ranking.num_experts);
  top_k(ranking.z, ranking.num_experts, window, order_.data());
  uint32_t taken = guaranteed_;
  std::copy(order_.begin(), order_.begin() + guaranteed_, chosen);
  for (uint32_t rank = guaranteed_; rank < window && taken < top_k_; ++rank) {
    const uint32_t expert = order_[rank];
    if (cached[expert] != 0 && std::isfinite(ranking.z[expert])) chosen[taken++] = expert;
  }
  for (uint32_t rank = guaranteed_; taken < top_k_; ++rank)
    if (cached[order_[rank]] == 0) chosen[taken++] = order_[rank];
}

}  // namespace moe_mobile
