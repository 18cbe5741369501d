// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "cache/memory_plan.h"

#include <algorithm>
#include <cstdio>
#include <limits>

#include "base/error.h"

namespace moe_mobile {
namespace {

constexpr uint64_t kMax = std::numeric_limits<uint64_t>::max();

uint64_t saturating_add(uint64_t a, uint64_t b) { return a > kMax - b ? kMax : a + b; }
uint64_t saturating_multiply(uint64_t a, uint64_t b) {
  return b != 0 && a > kMax / b ? kMax : a * b;
}

[[noreturn]] void refuse(const std::string& cause, const std::string& remedy) {
  throw Error(ErrorCode::kBudget, Setting{"cache"}, cause, remedy);
}

// A budget in bytes instead of `auto`: what is available less `fixed`. 15 % stay free for what else
// runs, and for what this plan does not see.
Budget automatic_budget(uint64_t available, uint64_t fixed) {
  const uint64_t usable = available - available / 100 * 15;
  return {Budget::Kind::kBytes, usable > fixed ? usable - fixed : 0, 0};
}

std::string experts_of(uint64_t slots, const MemoryPlan& plan) {
  return std::to_string(slots) + " of " + std::to_string(plan.num_experts) + " experts (" +
         format_bytes(plan.slot_bytes) + " each)";
}

}  // namespace

std::string format_bytes(uint64_t bytes) {
  const struct {
    uint64_t bytes;
    const char* format;
  } units[] = {{1ull << 30, "%.2f GiB"}, {1ull << 20, "%.1f MiB"}, {1ull << 10, "%.1f KiB"}};
  char text[32];
  for (const auto& unit : units) {
    if (bytes < unit.bytes) continue;
    std::snprintf(text, sizeof text, unit.format,
                  static_cast<double>(bytes) / static_cast<double>(unit.bytes));
    return text;
  }
  return std::to_string(bytes) + " B";
}

MemoryPlan plan_memory(const MemoryPlanInputs& in) {
  MemoryPlan plan;
  plan.slot_bytes = in.slot_bytes;
  plan.num_experts = uint64_t{in.moe_layers} * in.experts;
  plan.dense_bytes = in.dense_bytes;
  plan.kv_bytes = in.kv_bytes;
  plan.arena_bytes = in.arena_bytes;
  plan.available_bytes = in.available_bytes;
  const uint64_t fixed =
      saturating_add(saturating_add(in.dense_bytes, in.kv_bytes), in.arena_bytes);

  if (plan.num_experts > 0) {
    if (in.slot_bytes == 0) throw Error(ErrorCode::kUsage, "", "a slot of no bytes");
    plan.token_cycle_slots =
        std::min(static_cast<uint64_t>(in.moe_layers) * in.top_k, plan.num_experts);
    const Budget budget = in.budget.kind == Budget::Kind::kAuto
                              ? automatic_budget(in.available_bytes, fixed)
                              : in.budget;
    const CacheSlots slots =
        cache_slots(budget, {in.moe_layers, in.experts, in.slot_bytes, in.per_layer});
    plan.slots = slots.all;
    plan.slots_per_layer = slots.per_layer;
    plan.experts_budget_bytes = budget.kind == Budget::Kind::kBytes
                                    ? budget.bytes
                                    : saturating_multiply(plan.slots, in.slot_bytes);
  }
  plan.total_bytes = saturating_add(saturating_multiply(plan.slots, plan.slot_bytes), fixed);

  const uint64_t cycle_bytes = saturating_multiply(plan.token_cycle_slots, plan.slot_bytes);
  const std::string held =
      format_bytes(plan.experts_budget_bytes) + " hold " + experts_of(plan.slots, plan);
  const std::string raise =
      in.budget.kind == Budget::Kind::kAuto
          ? "Free memory, shorten the context or choose a smaller model: beside " +
                format_bytes(fixed) + " for everything else, experts need at least " +
                format_bytes(cycle_bytes) + " of the " + format_bytes(in.available_bytes) +
                " that are available"
          : "Raise the cache budget to at least " + format_bytes(cycle_bytes);
  if (in.per_layer && plan.num_experts > 0 && plan.slots_per_layer < in.top_k)
    refuse(held + ", a cache of " + std::to_string(plan.slots_per_layer) + " for each layer, and " +
               std::to_string(in.top_k) + " are needed there at once",
           raise);
  if (plan.num_experts > 0 && plan.slots < in.top_k) {
    refuse(held + ", one layer needs " + std::to_string(in.top_k) + " at once", raise);
  }
  if (plan.slots < plan.token_cycle_slots && !in.allow_below_cycle) {
    refuse(held + ", one token uses " + std::to_string(plan.token_cycle_slots) +
               ": every expert would be read anew for every token",
           raise + ", or allow a cache below one token cycle");
  }
  if (plan.total_bytes > in.available_bytes) {
    refuse(format_bytes(plan.total_bytes) + " are needed (" + experts_of(plan.slots, plan) +
               " and " + format_bytes(fixed) + " for everything else), " +
               format_bytes(in.available_bytes) + " are available",
           "Lower the cache budget, shorten the context or free memory");
  }
  return plan;
}

std::string describe(const MemoryPlan& plan) {
  const auto share = [](uint64_t part, uint64_t whole) {
    char text[16];
    std::snprintf(
        text, sizeof text, "%.0f %%",
        whole == 0 ? 0.0 : 100.0 * static_cast<double>(part) / static_cast<double>(whole));
    return std::string(text);
  };
  return "experts    " + format_bytes(plan.slots * plan.slot_bytes) + ": " +
         experts_of(plan.slots, plan) + ", " + share(plan.slots, plan.num_experts) +
         (plan.slots_per_layer > 0 ? ", " + std::to_string(plan.slots_per_layer) + " per layer"
                                   : "") +
         "; one token uses " + std::to_string(plan.token_cycle_slots) + "\n" + "dense      " +
         format_bytes(plan.dense_bytes) + "\n" + "KV cache   " + format_bytes(plan.kv_bytes) +
         "\n" + "arenas     " + format_bytes(plan.arena_bytes) + "\n" + "total      " +
         format_bytes(plan.total_bytes) + " of " + format_bytes(plan.available_bytes) +
         " available\n";
}

}  // namespace moe_mobile
