// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace moe_mobile {

// What the memory plan must know about a precision in which experts run.
struct SlotClassInput {
  uint32_t variant = 0;     // ExpertKey::variant
  std::string name;         // for people
  uint32_t ranks = 0;       // experts per token and layer that use it; above 0
  uint64_t slot_bytes = 0;  // one expert's packed bytes
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
  uint64_t total_bytes = 0;  // slots and everything else, or what loading takes if that is more
  uint64_t available_bytes = 0;

  // Slots of each variant below `variants`.
  std::vector<uint32_t> slots_by_variant(size_t variants) const;
};

// A few lines for people.
std::string describe(const MemoryPlan& plan);

// What is asked for is rounded up, and what there is down: the text of an amount that is needed is
// then enough, and never looks like one that is too small.
enum class Rounding { kNearest, kUp, kDown };

// "4.9 MiB", "1.50 GiB", "812 B".
std::string format_bytes(uint64_t bytes, Rounding rounding = Rounding::kNearest);

}  // namespace moe_mobile
