// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

namespace moe_mobile {

// How much memory the experts may take.
struct Budget {
  enum class Kind { kAuto, kBytes, kPercent };
  Kind kind = Kind::kAuto;
  uint64_t bytes = 0;  // kBytes
  double percent = 0;  // kPercent, of each layer's experts; above 0, at most 100
};

// "auto", "50%", "512MiB", "1.5GiB", "64KiB", "100MB" (powers of ten), "200000000" or "200000000B".
// kUsage otherwise.
Budget parse_budget(const std::string& text);
// Parses to the same budget.
std::string to_text(const Budget& budget);

// The one rule for a share: `percent` of a layer's experts, in whole experts, rounded down. Shares
// are written with a dozen digits, so a result less than a millionth of an expert below a whole
// number counts as that number: 33.333333333333 % of 3 experts is 1 expert.
// REQUIRES: 0 < percent <= 100.
uint32_t experts_of_share(double percent, uint32_t experts);
// The share of `experts` that `slots` is, as parse_budget() reads it: "37.5%".
// REQUIRES: 0 < slots <= experts.
std::string share_text(uint32_t slots, uint32_t experts);

// What shares a cache.
struct CacheShape {
  uint32_t layers = 0;      // with experts
  uint32_t experts = 0;     // of each layer
  uint64_t slot_bytes = 0;  // of one expert
  bool per_layer = false;   // every layer has a pool of its own, all of one size
};

struct CacheSlots {
  uint64_t all = 0;
  uint64_t per_layer = 0;  // 0: one pool for all layers
};

// Slots that a budget pays for, at most one for each expert. A share is the same share of every
// layer, whether the layers have one pool or one each; bytes are divided by layer only if the
// pools are.
// REQUIRES: the budget is not kAuto; slot_bytes and layers are not 0.
CacheSlots cache_slots(const Budget& budget, const CacheShape& shape);

}  // namespace moe_mobile
