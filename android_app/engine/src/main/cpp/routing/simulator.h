// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "routing/routing_run.h"

namespace moe_mobile {

// A trace of router logits, and the settings to replay it with.
struct Simulation {
  const float* logits = nullptr;    // [tokens, layers, experts]
  std::vector<uint64_t> sequences;  // tokens of each, at least one
  uint64_t prompt_tokens = 0;       // length of the prompt at the start of each sequence
  SelectorSettings run;
};

// Per slot, [tokens, layers, top_k] in rank order; the caller's memory. Ranks that a token does not
// use are -1, 0 and 0.
struct SimulatedSlots {
  int32_t* selected = nullptr;
  uint8_t* uncached = nullptr;  // not in the cache before
  uint8_t* dropped = nullptr;   // not read because uncached (drop-cold)
};

// Writes a step's slots, top_k of each.
inline void write_slots(const RunStep& step, uint32_t top_k, const SimulatedSlots& out) {
  const auto used = static_cast<uint32_t>(step.selection.experts.size());
  for (uint32_t rank = 0; rank < used; ++rank) {
    out.selected[rank] = static_cast<int32_t>(step.selection.experts[rank]);
    out.uncached[rank] = step.uncached[rank];
    out.dropped[rank] = step.selection.dropped[rank];
  }
  if (used == top_k) return;
  std::fill(out.selected + used, out.selected + top_k, -1);
  std::fill(out.uncached + used, out.uncached + top_k, uint8_t{0});
  std::fill(out.dropped + used, out.dropped + top_k, uint8_t{0});
}

struct SimulatedTotals {
  RunTotals decoded;
  std::string routing;  // as resolved, see ResolvedRouting
  std::string note;
};

// Routes every token of every sequence. `between` is called from time to time and may throw. kUsage
// or kBudget naming the setting if an input is invalid; kUsage if a logit is NaN or infinite.
SimulatedTotals simulate(const Simulation& simulation, const SimulatedSlots& slots,
                         const std::function<void()>& between);

}  // namespace moe_mobile
