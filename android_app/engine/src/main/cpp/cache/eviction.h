// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace moe_mobile {

// Which expert leaves when room is needed; among equals, the least recently used.
struct EvictionOptions {
  enum class Kind {
    kLru,     // the least recently used
    kLfu,     // the one used least, where each access makes older uses count `decay` times as much
    kBelady,  // the one whose next use is farthest: needs the future, so the lab only
  };
  Kind kind = Kind::kLru;
  double decay = 0;  // kLfu
};

// "lru", "lfu" (which is "lfu:0.99"), "lfu:DECAY" or "belady"; kUsage otherwise.
EvictionOptions parse_eviction(const std::string& text);
// Parses to the same options.
std::string to_text(const EvictionOptions& options);

}  // namespace moe_mobile
