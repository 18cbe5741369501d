// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "base/span.h"

namespace moe_mobile {

// Times are wall clock in nanoseconds, of the thread that runs the engine.
struct Costs {
  uint64_t total_ns = 0;
  uint64_t dense_ns = 0;  // dense programs
  uint64_t attention_ns = 0;
  uint64_t expert_ns = 0;  // running experts
  uint64_t wait_ns = 0;    // waiting for flash with nothing to compute
  uint64_t router_ns = 0;
  uint64_t head_ns = 0;
  uint64_t hits = 0;
  uint64_t misses = 0;   // read from flash
  uint64_t dropped = 0;  // selected, missed, and not read because of drop-cold
  uint64_t bytes_read = 0;
  uint64_t slots_changed_by_routing = 0;  // selections that differ from exact routing
};

// The name of each member, for sums and for JSON.
constexpr struct {
  const char* name;
  uint64_t Costs::* member;
} kCosts[] = {
    {"total_ns", &Costs::total_ns},
    {"dense_ns", &Costs::dense_ns},
    {"attention_ns", &Costs::attention_ns},
    {"expert_ns", &Costs::expert_ns},
    {"wait_ns", &Costs::wait_ns},
    {"router_ns", &Costs::router_ns},
    {"head_ns", &Costs::head_ns},
    {"hits", &Costs::hits},
    {"misses", &Costs::misses},
    {"dropped", &Costs::dropped},
    {"bytes_read", &Costs::bytes_read},
    {"slots_changed_by_routing", &Costs::slots_changed_by_routing},
};

// What one token cost.
struct TokenMetrics : Costs {
  uint32_t token = 0;  // the token id that went in
};

// Totals over tokens, and percentiles of total_ns by nearest rank.
struct RunMetrics : Costs {
  uint64_t tokens = 0;
  uint64_t p50_ns = 0;
  uint64_t p95_ns = 0;
  uint64_t p99_ns = 0;

  // Share of the selected experts that were in memory; 0 if no expert was selected.
  double hit_rate() const;
};

RunMetrics aggregate(Span<const TokenMetrics> tokens);

}  // namespace moe_mobile
