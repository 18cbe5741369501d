// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "cache/memory_planner.h"

#include <algorithm>
#include <cstdio>
#include <iterator>
#include <limits>

#include "base/error.h"

namespace moe_mobile {
namespace {

constexpr uint64_t kMax = std::numeric_limits<uint64_t>::max();

uint64_t saturating_add(uint64_t a, uint64_t b) { return a > kMax - b ? kMax : a + b; }
uint64_t saturating_multiply(uint64_t a, uint64_t b) {
  return b != 0 && a > kMax / b ? kMax : a * b;
}

[[noreturn]] void refuse_budget(const std::string& cause, const std::string& remedy) {
  throw Error(ErrorCode::kBudget, Setting{"cache"}, cause, remedy);
}

// Bytes that the experts may take. 15 % of the available memory stays free for other processes and
// for memory that this plan does not count.
uint64_t experts_budget(const MemoryPlanInputs& in, uint64_t fixed) {
  switch (in.budget.kind) {
    case Budget::Kind::kBytes:
      return in.budget.bytes;
    case Budget::Kind::kPercent: {
      const uint64_t slots =
          uint64_t{experts_of_share(in.budget.percent, in.experts)} * in.moe_layers;
      uint64_t bytes = 0;
      for (const SlotClassInput& c : in.classes)
        bytes = saturating_add(bytes, saturating_multiply(slots, c.slot_bytes));
      return bytes;
    }
    case Budget::Kind::kAuto:
      break;
  }
  const uint64_t usable = in.available_bytes - in.available_bytes / 100 * 15;
  const uint64_t room = usable > fixed ? usable - fixed : 0;
  uint64_t smallest = kMax;
  for (const SlotClassInput& c : in.classes) smallest = std::min(smallest, c.slot_bytes);
  return room - room / saturating_add(smallest, in.method_bytes) * in.method_bytes;
}

std::string experts_of(uint64_t slots, uint64_t num_experts, uint64_t slot_bytes) {
  return std::to_string(slots) + " of " + std::to_string(num_experts) + " experts (" +
         format_bytes(slot_bytes) + " each)";
}

std::string experts_of(const MemoryPlan& plan) {
  std::string text;
  for (const SlotClassPlan& c : plan.classes)
    text += (text.empty() ? "" : " and ") +
            experts_of(c.slots, plan.num_experts / plan.classes.size(), c.slot_bytes) +
            (plan.classes.size() > 1 ? " in " + c.name : "");
  return text;
}

// Sets `slots` of each class. Classes that can hold all their experts are settled first; the others
// share the rest.
void split_budget(uint64_t budget, uint64_t num_experts, std::vector<SlotClassPlan>* classes) {
  std::vector<SlotClassPlan*> open;
  for (SlotClassPlan& c : *classes) open.push_back(&c);
  for (bool settled = false; !settled && !open.empty();) {
    uint64_t unit = 0;  // bytes of as many slots of each class as it has ranks
    for (const SlotClassPlan* c : open)
      unit = saturating_add(unit, saturating_multiply(c->ranks, c->slot_bytes));
    uint64_t rest = budget % unit;
    for (SlotClassPlan* c : open) {
      const uint64_t more = std::min<uint64_t>(rest / c->slot_bytes, c->ranks);
      rest -= more * c->slot_bytes;
      c->slots = saturating_add(saturating_multiply(budget / unit, c->ranks), more);
    }
    settled = true;
    for (size_t i = open.size(); i-- > 0;) {
      if (open[i]->slots <= num_experts) continue;
      open[i]->slots = num_experts;
      budget -= num_experts * open[i]->slot_bytes;
      open.erase(open.begin() + static_cast<ptrdiff_t>(i));
      settled = false;
    }
  }
}

struct Unit {
  const char* name;
  uint64_t bytes;
  int digits;      // after the point
  uint64_t parts;  // that they count
};

constexpr Unit kUnits[] = {
    {"KiB", 1ull << 10, 1, 10}, {"MiB", 1ull << 20, 1, 10}, {"GiB", 1ull << 30, 2, 100}};

// Bytes in parts of a unit. Ties go to the even number.
uint64_t divide(uint64_t bytes, const Unit& unit, Rounding rounding) {
  const uint64_t rest = bytes % unit.bytes * unit.parts;
  const uint64_t below = bytes / unit.bytes * unit.parts + rest / unit.bytes;
  const uint64_t left = rest % unit.bytes;
  const bool nearer = 2 * left > unit.bytes || (2 * left == unit.bytes && below % 2 == 1);
  const bool up = rounding == Rounding::kUp ? left > 0 : rounding == Rounding::kNearest && nearer;
  return below + (up ? 1 : 0);
}

std::string needed_text(uint64_t bytes) { return format_bytes(bytes, Rounding::kUp); }
std::string free_text(uint64_t bytes) { return format_bytes(bytes, Rounding::kDown); }

}  // namespace

std::string format_bytes(uint64_t bytes, Rounding rounding) {
  if (bytes < 1024) return std::to_string(bytes) + " B";
  const auto* unit = std::begin(kUnits);
  uint64_t parts = divide(bytes, *unit, rounding);
  while (parts >= 1024 * unit->parts && unit + 1 != std::end(kUnits))
    parts = divide(bytes, *++unit, rounding);
  char text[32];
  std::snprintf(text, sizeof text, "%llu.%0*llu %s",
                static_cast<unsigned long long>(parts / unit->parts), unit->digits,
                static_cast<unsigned long long>(parts % unit->parts), unit->name);
  return text;
}

std::vector<uint32_t> MemoryPlan::slots_by_variant(size_t variants) const {
  std::vector<uint32_t> counts(variants, 0);
  for (const SlotClassPlan& c : classes) counts.at(c.variant) = static_cast<uint32_t>(c.slots);
  return counts;
}

MemoryPlan plan_memory(const MemoryPlanInputs& in) {
  MemoryPlan plan;
  plan.dense_bytes = in.dense_bytes;
  plan.kv_bytes = in.kv_bytes;
  plan.arena_bytes = in.arena_bytes;
  plan.available_bytes = in.available_bytes;
  const uint64_t fixed =
      saturating_add(saturating_add(in.dense_bytes, in.kv_bytes), in.arena_bytes);

  const uint64_t num_experts = uint64_t{in.moe_layers} * in.experts;
  uint64_t slots_bytes = 0, cycle_bytes = 0;
  if (num_experts > 0) {
    for (const SlotClassInput& c : in.classes) {
      if (c.slot_bytes == 0) throw Error(ErrorCode::kUsage, "", "the size of a slot is 0 bytes");
      plan.classes.emplace_back();
      static_cast<SlotClassInput&>(plan.classes.back()) = c;
    }
    plan.experts_budget_bytes = experts_budget(in, fixed);
    split_budget(plan.experts_budget_bytes, num_experts, &plan.classes);
    for (SlotClassPlan& c : plan.classes) {
      const Budget share{Budget::Kind::kBytes, saturating_multiply(c.slots, c.slot_bytes), 0};
      const CacheSlots slots =
          cache_slots(share, {in.moe_layers, in.experts, c.slot_bytes, in.per_layer});
      c.slots = slots.all;
      c.slots_per_layer = slots.per_layer;
      c.token_cycle_slots = std::min(uint64_t{in.moe_layers} * c.ranks, num_experts);
      plan.slots += c.slots;
      plan.slots_per_layer += c.slots_per_layer;
      plan.num_experts += num_experts;
      plan.token_cycle_slots += c.token_cycle_slots;
      plan.slot_bytes = std::max(plan.slot_bytes, c.slot_bytes);
      slots_bytes = saturating_add(slots_bytes, saturating_multiply(c.slots, c.slot_bytes));
      cycle_bytes =
          saturating_add(cycle_bytes, saturating_multiply(c.token_cycle_slots, c.slot_bytes));
    }
  }
  const uint64_t methods_bytes = saturating_multiply(plan.slots, in.method_bytes);
  plan.arena_bytes = saturating_add(plan.arena_bytes, methods_bytes);
  const uint64_t loading = saturating_add(in.dense_bytes, in.loading_bytes);
  const uint64_t running = saturating_add(saturating_add(slots_bytes, fixed), methods_bytes);
  plan.total_bytes = std::max(running, loading);

  const std::string raise =
      in.budget.kind == Budget::Kind::kAuto
          ? "Free memory, shorten the context or choose a smaller model: with " +
                needed_text(fixed) + " for everything else, experts need at least " +
                needed_text(cycle_bytes) + " of the " + free_text(in.available_bytes) +
                " that are available"
          : "Raise the cache budget to at least " + needed_text(cycle_bytes);
  for (const SlotClassPlan& c : plan.classes) {
    const std::string held = format_bytes(plan.experts_budget_bytes) + " hold " + experts_of(plan);
    const std::string of = plan.classes.size() > 1 ? " in " + c.name : "";
    if (in.per_layer && c.slots_per_layer < c.ranks)
      refuse_budget(held + ": each layer has room for " + std::to_string(c.slots_per_layer) + of +
                        ", and needs " + std::to_string(c.ranks) + " at once",
                    raise);
    if (c.slots < c.ranks)
      refuse_budget(held + ": one layer needs " + std::to_string(c.ranks) + of + " at once", raise);
    if (c.slots < c.token_cycle_slots && !in.allow_below_cycle)
      refuse_budget(held + ", one token uses " + std::to_string(c.token_cycle_slots) + of +
                        ": every expert would be read again for every token",
                    raise + ", or set `allow_below_cycle`");
  }
  if (running < loading && loading > in.available_bytes)
    refuse_budget(needed_text(loading) + " are needed while the dense programs are loaded, " +
                      free_text(in.available_bytes) + " are available",
                  "Free memory, or choose a smaller model");
  if (plan.total_bytes > in.available_bytes) {
    refuse_budget(needed_text(plan.total_bytes) + " are needed (" + experts_of(plan) + " and " +
                      needed_text(fixed) + " for everything else), " +
                      free_text(in.available_bytes) + " are available",
                  "Lower the cache budget, shorten the context or free memory");
  }
  return plan;
}

uint64_t available_to_resize(const Budget& budget, const MemoryPlan& plan,
                             Span<const uint32_t> held_slots, uint64_t free_bytes) {
  uint64_t available = saturating_add(free_bytes, plan.dense_bytes);
  for (const SlotClassPlan& c : plan.classes)
    available = saturating_add(available, held_slots[c.variant] * c.slot_bytes);
  // An automatic budget is derived from the sum, so it must not be raised.
  if (budget.kind == Budget::Kind::kAuto) return available;
  return std::max(available, plan.total_bytes);
}

std::string describe(const MemoryPlan& plan) {
  const auto share = [](uint64_t part, uint64_t whole) {
    char text[16];
    std::snprintf(
        text, sizeof text, "%.0f %%",
        whole == 0 ? 0.0 : 100.0 * static_cast<double>(part) / static_cast<double>(whole));
    return std::string(text);
  };
  std::string text;
  for (const SlotClassPlan& c : plan.classes) {
    const uint64_t num_experts = plan.num_experts / plan.classes.size();
    text += (text.empty() ? "experts    " : "           ") +
            (plan.classes.size() > 1 ? c.name + ", " : "") + format_bytes(c.slots * c.slot_bytes) +
            ": " + experts_of(c.slots, num_experts, c.slot_bytes) + ", " +
            share(c.slots, num_experts) +
            (c.slots_per_layer > 0 ? ", " + std::to_string(c.slots_per_layer) + " per layer" : "") +
            "; one token uses " + std::to_string(c.token_cycle_slots) + "\n";
  }
  if (text.empty()) text = "experts    none\n";
  return text + "dense      " + format_bytes(plan.dense_bytes) + "\n" + "KV cache   " +
         format_bytes(plan.kv_bytes) + "\n" + "arenas     " + format_bytes(plan.arena_bytes) +
         "\n" + "total      " + format_bytes(plan.total_bytes) + " of " +
         format_bytes(plan.available_bytes) + " available\n";
}

}  // namespace moe_mobile
