// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "routing/precision.h"

#include "base/error.h"
#include "base/spelling.h"

namespace moe_mobile {
namespace {

constexpr char kRanks[] = "ranks:";

}  // namespace

Precision parse_precision(const std::string& text) {
  if (text == "full") return {};
  if (text == "low") return {0};
  const std::string number = text.rfind(kRanks, 0) == 0 ? text.substr(sizeof kRanks - 1) : "";
  if (!number.empty() && number.size() <= 5 && number[0] != '0' &&
      number.find_first_not_of("0123456789") == std::string::npos)
    return {static_cast<uint32_t>(std::stoul(number))};
  throw Error(ErrorCode::kUsage, Setting{"precision"}, "invalid precision " + in_quotes(text),
              did_you_mean(text, {"full", "low", "ranks:1"},
                           "Write full, low, or ranks:N for the N best experts of each token in "
                           "full precision"));
}

std::string to_text(const Precision& precision) {
  if (precision.full_ranks == Precision::kAllRanks) return "full";
  if (precision.full_ranks == 0) return "low";
  return kRanks + std::to_string(precision.full_ranks);
}

}  // namespace moe_mobile
