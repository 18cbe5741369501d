// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>

#include "cache/eviction.h"
#include "routing/router_spec.h"
#include "routing/routing_options.h"

namespace moe_mobile {

// A trace of router logits, and what to replay it through.
struct Simulation {
  const float* logits = nullptr;  // [tokens, layers, experts]
  uint64_t tokens = 0;
  uint32_t layers = 0;
  RouterSpec router;
  RoutingOptions routing;
  uint32_t capacity = 0;  // experts per layer
  bool global = false;    // one pool of capacity x layers, else a pool per layer
  EvictionOptions eviction;
};

// Per slot, [tokens, layers, top_k] in rank order; the caller's memory.
struct SimulatedSlots {
  int32_t* selected = nullptr;
  uint8_t* missed = nullptr;   // not in the cache before the access
  uint8_t* dropped = nullptr;  // missed and not read
};

struct SimulatedTotals {
  uint64_t misses = 0;
  uint64_t dropped = 0;
  uint64_t changed = 0;  // selections that differ from exact routing
  uint64_t evictions = 0;
  uint64_t lifetime_tokens = 0;  // of all evicted experts, from load to eviction
  std::string routing;           // as it came out, see ResolvedRouting
  std::string note;
};

// Decodes every token, from an empty cache. `between` is called now and then and may throw.
// kUsage or kBudget naming the setting where the inputs make no sense, kUsage for logits that are
// NaN or infinite.
SimulatedTotals simulate(const Simulation& simulation, const SimulatedSlots& slots,
                         const std::function<void()>& between);

}  // namespace moe_mobile
