// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/span.h"
#include "cache/budget.h"

namespace moe_mobile {

// Bytes this process can still take: the smaller of MemAvailable and what its cgroups leave. The
// folders are parameters for tests.
uint64_t available_memory(const std::string& proc = "/proc",
                          const std::string& cgroup = "/sys/fs/cgroup");

// What the memory plan must know about a precision in which experts run.
struct SlotClassInput {
  uint32_t variant = 0;     // ExpertKey::variant
  std::string name;         // for people
  uint32_t ranks = 0;       // experts per token and layer that use it; above 0
  uint64_t slot_bytes = 0;  // one expert's packed bytes
};

struct MemoryPlanInputs {
  Budget budget;
  std::vector<SlotClassInput> classes;
  uint32_t experts = 0;          // of each layer
  uint32_t moe_layers = 0;       // layers with experts
  uint64_t dense_bytes = 0;      // weights of the dense programs and the head
  uint64_t kv_bytes = 0;         //
  uint64_t arena_bytes = 0;      // planned memory, activations, buffers
  uint64_t available_bytes = 0;  // available_memory() before anything was loaded
  bool allow_below_cycle = false;
  bool per_layer = false;  // every layer has a pool of its own, all of one size
};

// The slots of one precision.
struct SlotClassPlan : SlotClassInput {
  uint64_t slots = 0;
  uint64_t slots_per_layer = 0;    // 0: one pool for all layers
  uint64_t token_cycle_slots = 0;  // MoE layers x ranks, at most all experts
};

struct MemoryPlan {
  uint64_t experts_budget_bytes = 0;  // granted by the budget
  std::vector<SlotClassPlan> classes;
  // All classes together.
  uint64_t slots = 0;
  uint64_t slots_per_layer = 0;    // 0: one pool for all layers
  uint64_t num_experts = 0;        // an expert counts in each class
  uint64_t token_cycle_slots = 0;  // used by one token
  uint64_t slot_bytes = 0;         // of the largest class
  uint64_t dense_bytes = 0;
  uint64_t kv_bytes = 0;
  uint64_t arena_bytes = 0;
  uint64_t total_bytes = 0;  // slots and everything else
  uint64_t available_bytes = 0;

  // Slots of each variant below `variants`.
  std::vector<uint32_t> slots_by_variant(size_t variants) const;
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

// A few lines for people.
std::string describe(const MemoryPlan& plan);

// "4.9 MiB", "1.50 GiB", "812 B".
std::string format_bytes(uint64_t bytes);

}  // namespace moe_mobile
