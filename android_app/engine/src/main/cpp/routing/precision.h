// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>

namespace moe_mobile {

// The precision (ExpertKey::variant) in which a selected expert runs. Its rank alone decides.
// Variant 0 is the bundle's own precision, variant 1 the first of its `variants`.
struct Precision {
  static constexpr uint32_t kAllRanks = std::numeric_limits<uint32_t>::max();

  uint32_t full_ranks = kAllRanks;  // the best ranks, which use variant 0; the others use variant 1

  uint32_t variant(uint32_t rank) const { return rank < full_ranks ? 0 : 1; }
  // How many of the top_k ranks use this variant.
  uint32_t ranks(uint32_t variant, uint32_t top_k) const {
    const uint32_t full = std::min(full_ranks, top_k);
    return variant == 0 ? full : top_k - full;
  }
};

// "full" (variant 0 only), "low" (variant 1 only) or "ranks:N" (the N best ranks use variant 0, the
// others variant 1; N >= 1). kUsage otherwise.
Precision parse_precision(const std::string& text);
// Parses to the same precision.
std::string to_text(const Precision& precision);

}  // namespace moe_mobile
