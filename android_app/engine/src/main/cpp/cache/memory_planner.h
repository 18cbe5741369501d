// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/span.h"
#include "cache/budget.h"
#include "cache/memory_plan.h"

namespace moe_mobile {

// Bytes this process can still take: the smaller of MemAvailable and what its cgroups leave. The
// folders are parameters for tests.
uint64_t available_memory(const std::string& proc = "/proc",
                          const std::string& cgroup = "/sys/fs/cgroup");

struct MemoryPlanInputs {
  Budget budget;
  std::vector<SlotClassInput> classes;
  uint32_t experts = 0;          // of each layer
  uint32_t moe_layers = 0;       // layers with experts
  uint64_t dense_bytes = 0;      // weights of the dense programs and the head
  uint64_t kv_bytes = 0;         //
  uint64_t arena_bytes = 0;      // planned memory, activations, buffers
  uint64_t method_bytes = 0;     // of each slot besides its weights; counted as arena
  uint64_t loading_bytes = 0;    // for a moment, beside the dense weights, while one is loaded
  uint64_t available_bytes = 0;  // available_memory() before anything was loaded
  bool allow_below_cycle = false;
  bool per_layer = false;  // every layer has a pool of its own, all of one size
};

// One budget pays for all classes of slots, in the proportion in which one token uses them: as many
// slots of each as it has ranks. What a class cannot use, because it holds all its experts, goes to
// the others. A share ("50%") counts the experts of all classes in use.
//
// Throws kBudget with the numbers and a remedy: fewer slots than a class has ranks, in any pool;
// fewer than one token cycle in a pool for all layers, unless allowed; more than the available
// memory. A model without experts gets a plan with no slots.
MemoryPlan plan_memory(const MemoryPlanInputs& inputs);

// What plan_memory() may count as available for another budget of a process that runs `plan`:
// `free_bytes` (available_memory() now), the dense weights, and the slots that hold memory,
// `held_slots` by variant. KV cache and arenas take memory only as they are used, so none of it
// counts: all of it must still fit. A budget in bytes or percent gets at least plan.total_bytes, so
// a plan that needs no more than the present one is never refused for lack of memory.
uint64_t available_to_resize(const Budget& budget, const MemoryPlan& plan,
                             Span<const uint32_t> held_slots, uint64_t free_bytes);

}  // namespace moe_mobile
