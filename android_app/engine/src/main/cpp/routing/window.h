// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "routing/method.h"

namespace moe_mobile {

// Selects the `guaranteed` best, then the cached ones among the best of a window, then the best of
// the rest (Algorithms 1 and 2 of arXiv 2412.00099). Keeps its scratch memory.
class WindowChooser {
 public:
  explicit WindowChooser(const MethodSettings& settings)
      : guaranteed_(settings.guaranteed),
        contenders_(settings.num_experts + 1),
        values_(settings.num_experts + 1),
        order_(settings.top_k) {}

  // Calls in_window(expert) for a few experts only, never for one of the top_k best.
  //
  // Those of the top_k best that are cached or guaranteed always stay. The others are replaced, the
  // worst first, by cached experts of the window, the best first.
  template <typename InWindow>
  void choose(const Ranking& ranking, const uint8_t* cached, InWindow in_window, uint32_t* chosen) {
    std::copy(ranking.best, ranking.best + ranking.top_k, chosen);
    uint32_t cold = 0;
    for (uint32_t rank = guaranteed_; rank < ranking.top_k; ++rank)
      cold += cached[chosen[rank]] ^ 1;
    if (cold == 0) return;
    const uint32_t contenders = contend(ranking, cached, cold);
    // Of experts in order, the first ones are in the window.
    uint32_t in = 0, out = contenders;
    while (in < out) {
      // Try the last one first: it is often in the window.
      const uint32_t at = out == contenders ? out - 1 : (in + out) / 2;
      if (in_window(contenders_[order_[at]])) {
        in = at + 1;
      } else {
        out = at;
      }
    }
    for (uint32_t rank = ranking.top_k; in > 0; --rank)
      if (cached[chosen[rank - 1]] == 0) chosen[rank - 1] = contenders_[order_[--in]];
  }

 private:
  // The best cached experts after the top_k best, at most `most`; order_ has their places.
  uint32_t contend(const Ranking& ranking, const uint8_t* cached, uint32_t most);

  uint32_t guaranteed_;
  std::vector<uint32_t> contenders_;
  std::vector<float> values_;
  std::vector<uint32_t> order_;
};

}  // namespace moe_mobile
