// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "cache/budget.h"

namespace moe_mobile {

// Bytes this process could still take: MemAvailable, or what its cgroups leave, whichever is less.
// The folders are parameters for tests.
uint64_t available_memory(const std::string& proc = "/proc",
                          const std::string& cgroup = "/sys/fs/cgroup");

struct MemoryPlanInputs {
  Budget budget;
  uint64_t slot_bytes = 0;       // one expert's packed bytes
  uint32_t experts = 0;          // of each layer
  uint32_t moe_layers = 0;       // layers with experts
  uint32_t top_k = 0;            //
  uint64_t dense_bytes = 0;      // weights of the dense programs and the head
  uint64_t kv_bytes = 0;         //
  uint64_t arena_bytes = 0;      // planned memory, activations, buffers
  uint64_t available_bytes = 0;  // available_memory() before anything was loaded
  bool allow_below_cycle = false;
  bool per_layer = false;  // every layer has a pool of its own, all of one size
};

struct MemoryPlan {
  uint64_t experts_budget_bytes = 0;  // what the budget grants
  uint64_t slots = 0;
  uint64_t slots_per_layer = 0;  // 0: one pool for all layers
  uint64_t slot_bytes = 0;
  uint64_t num_experts = 0;
  uint64_t dense_bytes = 0;
  uint64_t kv_bytes = 0;
  uint64_t arena_bytes = 0;
  uint64_t total_bytes = 0;        // slots and all the rest
  uint64_t token_cycle_slots = 0;  // MoE layers x top_k, at most num_experts
  uint64_t available_bytes = 0;
};

// Throws kBudget with the numbers and a remedy: fewer slots than top_k, in any pool; fewer than one
// token cycle in a pool for all layers, unless allowed; more than the available memory. No layer
// with experts gives a plan with no slots.
MemoryPlan plan_memory(const MemoryPlanInputs& inputs);

// A few lines for people.
std::string describe(const MemoryPlan& plan);

// "4.9 MiB", "1.50 GiB", "812 B".
std::string format_bytes(uint64_t bytes);

}  // namespace moe_mobile
