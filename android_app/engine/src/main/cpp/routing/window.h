// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "routing/method.h"

namespace moe_mobile {

// Selects the `guaranteed` best, then the cached ones among the `window` best, then the best of the
// rest (Algorithms 1 and 2 of arXiv 2412.00099). Keeps its scratch memory.
class WindowChooser {
 public:
  explicit WindowChooser(const MethodSettings& settings)
      : guaranteed_(settings.guaranteed), order_(settings.num_experts) {}
  void choose(const Ranking& ranking, uint32_t window, const uint8_t* cached, uint32_t* chosen);

 private:
  uint32_t guaranteed_;
  std::vector<uint32_t> order_;
};

}  // namespace moe_mobile
