// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "routing/window.h"

#include <limits>

#include "routing/top_k.h"

namespace moe_mobile {

uint32_t WindowChooser::contend(const Ranking& ranking, const uint8_t* cached, uint32_t most) {
  const float* z = ranking.z;
  const uint32_t last = ranking.best[ranking.top_k - 1];
  const float last_z = z[last], never = -std::numeric_limits<float>::infinity();
  uint32_t count = 0;
  for (uint32_t e = 0; e < ranking.num_experts; ++e) {
    contenders_[count] = e;
    values_[count] = z[e];
    const bool is_behind = (z[e] < last_z) | ((z[e] == last_z) & (e > last));
    count += static_cast<uint32_t>(is_behind & (z[e] > never) & (cached[e] != 0));
  }
  most = std::min(most, count);
  if (most > 0) top_k(values_.data(), count, most, order_.data());
  return most;
}

}  // namespace moe_mobile
