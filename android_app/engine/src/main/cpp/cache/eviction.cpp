// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "cache/eviction.h"

#include <optional>

#include "base/error.h"
#include "base/number.h"
#include "base/spelling.h"

namespace moe_mobile {
namespace {

constexpr double kUsualDecay = 0.99;

}  // namespace

EvictionOptions parse_eviction(const std::string& text) {
  EvictionOptions options;
  if (text == "lru") return options;
  if (text == "belady") {
    options.kind = EvictionOptions::Kind::kBelady;
    return options;
  }
  const std::string prefix = "lfu:";
  const std::optional<double> decay = text == "lfu" ? kUsualDecay
                                      : text.compare(0, prefix.size(), prefix) == 0
                                          ? parse_number(text.substr(prefix.size()))
                                          : std::nullopt;
  if (!decay || *decay > 1)
    throw Error(ErrorCode::kUsage, Setting{"eviction"}, "unknown eviction " + in_quotes(text),
                did_you_mean(text, {"lru", "lfu", "belady"},
                             "Choose lru, lfu, lfu:DECAY with a DECAY of 0 to 1, or in simulations "
                             "belady"));
  options.kind = EvictionOptions::Kind::kLfu;
  options.decay = *decay;
  return options;
}

std::string to_text(const EvictionOptions& options) {
  switch (options.kind) {
    case EvictionOptions::Kind::kLru:
      break;
    case EvictionOptions::Kind::kBelady:
      return "belady";
    case EvictionOptions::Kind::kLfu:
      return options.decay == kUsualDecay ? "lfu" : "lfu:" + number_text(options.decay);
  }
  return "lru";
}

}  // namespace moe_mobile
