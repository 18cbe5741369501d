// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "cache/memory_plan.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <optional>

#include "base/error.h"
#include "base/number.h"

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

// A decimal number without sign or exponent at the start of `text`; `used` characters long.
std::optional<double> leading_number(const std::string& text, size_t* used) {
  size_t end = 0;
  int points = 0, digits = 0;
  for (; end < text.size(); ++end) {
    if (text[end] == '.') {
      ++points;
    } else if (text[end] >= '0' && text[end] <= '9') {
      ++digits;
    } else {
      break;
    }
  }
  if (points > 1 || digits == 0 || digits > 20) return std::nullopt;
  *used = end;
  return parse_number(text.substr(0, end));
}

constexpr struct {
  const char* name;
  uint64_t bytes;
} kUnits[] = {{"TiB", 1ull << 40},
              {"GiB", 1ull << 30},
              {"MiB", 1ull << 20},
              {"KiB", 1ull << 10},
              {"", 1},
              {"B", 1},
              {"kB", 1000},
              {"KB", 1000},
              {"MB", 1000000},
              {"GB", 1000000000}};

std::optional<double> unit_bytes(const std::string& unit) {
  for (const auto& known : kUnits)
    if (unit == known.name) return static_cast<double>(known.bytes);
  return std::nullopt;
}

uint64_t experts_budget(const MemoryPlanInputs& in, uint64_t fixed) {
  switch (in.budget.kind) {
    case Budget::Kind::kBytes:
      return in.budget.bytes;
    case Budget::Kind::kPercent: {
      const double slots =
          std::round(static_cast<double>(in.num_experts) * in.budget.percent / 100);
      return saturating_multiply(static_cast<uint64_t>(slots), in.slot_bytes);
    }
    case Budget::Kind::kAuto:
      break;
  }
  // 15 % stay free for what else runs, and for what this plan does not see.
  const uint64_t usable = in.available_bytes - in.available_bytes / 100 * 15;
  return usable > fixed ? usable - fixed : 0;
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

Budget parse_budget(const std::string& text) {
  Budget budget;
  if (text == "auto") return budget;
  size_t used = 0;
  const std::optional<double> value = leading_number(text, &used);
  const std::string unit = text.substr(std::min(used, text.size()));
  if (value.has_value() && unit == "%" && *value > 0 && *value <= 100) {
    budget.kind = Budget::Kind::kPercent;
    budget.percent = *value;
    return budget;
  }
  const std::optional<double> factor = unit_bytes(unit);
  if (value.has_value() && factor.has_value() && *value * *factor >= 1 && *value * *factor < 1e18) {
    budget.kind = Budget::Kind::kBytes;
    budget.bytes = static_cast<uint64_t>(*value * *factor);
    return budget;
  }
  throw Error(ErrorCode::kUsage, Setting{"cache"}, "invalid size " + in_quotes(text),
              "Write auto, a share of the experts like 50%, or bytes like 512MiB or 1.5GiB");
}

std::string to_text(const Budget& budget) {
  switch (budget.kind) {
    case Budget::Kind::kAuto:
      return "auto";
    case Budget::Kind::kPercent:
      return number_text(budget.percent) + "%";
    case Budget::Kind::kBytes:
      break;
  }
  for (const auto& unit : kUnits)
    if (budget.bytes % unit.bytes == 0)
      return std::to_string(budget.bytes / unit.bytes) + unit.name;
  return std::to_string(budget.bytes);
}

MemoryPlan plan_memory(const MemoryPlanInputs& in) {
  MemoryPlan plan;
  plan.slot_bytes = in.slot_bytes;
  plan.num_experts = in.moe_layers == 0 ? 0 : in.num_experts;
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
    plan.experts_budget_bytes = experts_budget(in, fixed);
    plan.slots = std::min(plan.experts_budget_bytes / in.slot_bytes, plan.num_experts);
    if (in.per_layer) {
      plan.slots_per_layer = plan.slots / in.moe_layers;
      plan.slots = plan.slots_per_layer * in.moe_layers;
    }
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
