// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "cache/budget.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "base/error.h"
#include "base/number.h"

namespace moe_mobile {
namespace {

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

constexpr char kForms[] =
    "Write auto, a share of the experts like 50%, or bytes like 512MiB or 1.5GiB";

// A smaller number without a unit is not meant as bytes: they would not hold one expert.
constexpr double kLeastBare = 65536;

std::string invalid_size(const std::string& text, std::optional<double> value,
                         const std::string& unit) {
  const std::string cause = "invalid size " + in_quotes(text);
  const bool share = unit == "%";
  if (!value.has_value() || !(share || unit_bytes(unit).has_value())) return cause;
  if (*value <= 0) return cause + ": it would hold nothing";
  return share && *value > 100 ? cause + ": more than all experts" : cause;
}

}  // namespace

Budget parse_budget(const std::string& text) {
  Budget budget;
  if (text == "auto") return budget;
  size_t used = 0;
  const std::optional<double> value = leading_number(text, &used);
  std::string unit = text.substr(std::min(used, text.size()));
  unit.erase(0, unit.find_first_not_of(' '));  // "1.5 GiB", as messages write it
  if (value.has_value() && unit == "%" && *value > 0 && *value <= 100) {
    budget.kind = Budget::Kind::kPercent;
    budget.percent = *value;
    return budget;
  }
  if (value.has_value() && unit.empty() && *value < kLeastBare) {
    std::string meant = text + (*value <= 100 ? "%" : "MiB");
    if (*value < 1) meant = number_text(100 * *value) + "%";
    throw Error(ErrorCode::kUsage, Setting{"cache"}, invalid_size(text, value, unit),
                (*value > 0 ? "Was " + meant + " meant? " : "") + kForms);
  }
  const std::optional<double> factor = unit_bytes(unit);
  // "33.3" is a share without its sign, not 33 bytes.
  const bool whole = !unit.empty() || text.find('.') == std::string::npos;
  if (whole && value.has_value() && factor.has_value() && *value * *factor >= 1 &&
      *value * *factor < 1e18) {
    budget.kind = Budget::Kind::kBytes;
    budget.bytes = static_cast<uint64_t>(*value * *factor);
    return budget;
  }
  throw Error(ErrorCode::kUsage, Setting{"cache"}, invalid_size(text, value, unit), kForms);
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
  if (budget.bytes % 1024 != 0 && budget.bytes < kLeastBare)
    return std::to_string(budget.bytes) + "B";
  for (const auto& unit : kUnits)
    if (budget.bytes % unit.bytes == 0)
      return std::to_string(budget.bytes / unit.bytes) + unit.name;
  return std::to_string(budget.bytes);
}

uint32_t experts_of_share(double percent, uint32_t experts) {
  return std::min(experts, static_cast<uint32_t>(std::floor(experts * percent / 100 + 1e-6)));
}

std::string share_text(uint32_t slots, uint32_t experts) {
  return number_text(std::round(100.0 * slots / experts * 1e12) / 1e12) + "%";
}

CacheSlots cache_slots(const Budget& budget, const CacheShape& shape) {
  const uint64_t all = uint64_t{shape.layers} * shape.experts;
  const bool is_share = budget.kind == Budget::Kind::kPercent;
  CacheSlots slots;
  slots.all = is_share ? uint64_t{experts_of_share(budget.percent, shape.experts)} * shape.layers
                       : std::min(budget.bytes / shape.slot_bytes, all);
  if (shape.per_layer) {
    slots.per_layer = slots.all / shape.layers;
    slots.all = slots.per_layer * shape.layers;
  }
  return slots;
}

}  // namespace moe_mobile
