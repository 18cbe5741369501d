// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

namespace moe_mobile {

// Names the weights of one expert. `variant` tells its precisions apart.
struct ExpertKey {
  static constexpr uint32_t kVariants = 2;  // precisions of one expert, at most

  uint32_t layer = 0;
  uint32_t expert = 0;
  uint32_t variant = 0;

  // Exact for the format's limits: layer < 2^24, expert < 2^24, variant < 2^16.
  constexpr uint64_t packed() const {
    return (static_cast<uint64_t>(variant) << 48) | (static_cast<uint64_t>(layer) << 24) | expert;
  }
  friend constexpr bool operator==(const ExpertKey& a, const ExpertKey& b) {
    return a.layer == b.layer && a.expert == b.expert && a.variant == b.variant;
  }
  friend constexpr bool operator!=(const ExpertKey& a, const ExpertKey& b) { return !(a == b); }
  friend constexpr bool operator<(const ExpertKey& a, const ExpertKey& b) {
    if (a.layer != b.layer) return a.layer < b.layer;
    if (a.expert != b.expert) return a.expert < b.expert;
    return a.variant < b.variant;
  }
};

// The finaliser of MurmurHash3: neighbouring keys must not land in neighbouring buckets.
constexpr uint64_t hash_key(const ExpertKey& key) {
  uint64_t x = key.packed();
  x ^= x >> 33;
  x *= 0xff51afd7ed558ccdull;
  x ^= x >> 33;
  x *= 0xc4ceb9fe1a85ec53ull;
  return x ^ (x >> 33);
}

}  // namespace moe_mobile

template <>
struct std::hash<moe_mobile::ExpertKey> {
  size_t operator()(const moe_mobile::ExpertKey& key) const noexcept {
    return static_cast<size_t>(moe_mobile::hash_key(key));
  }
};
