// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace moe_mobile {

// Which expert leaves when room is needed; among equals, the least recently used.
struct EvictionOptions {
  enum class Kind {
    kLru,     // the least recently used
    kLfu,     // least used; each access multiplies the count of older uses by `decay`
    kBelady,  // the farthest next use: needs the future, so for the lab only
  };
  Kind kind = Kind::kLru;
  double decay = 0;  // kLfu
};

// "lru", "lfu" (which is "lfu:0.99"), "lfu:DECAY" or "belady"; kUsage otherwise.
EvictionOptions parse_eviction(const std::string& text);
// Parses to the same options.
std::string to_text(const EvictionOptions& options);

}  // namespace moe_mobile
