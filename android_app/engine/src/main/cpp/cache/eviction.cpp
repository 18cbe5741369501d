// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "cache/eviction.h"

#include <optional>

#include "base/error.h"
#include "base/number.h"

namespace moe_mobile {

EvictionOptions parse_eviction(const std::string& text) {
  EvictionOptions options;
  if (text == "lru") return options;
  if (text == "belady") {
    options.kind = EvictionOptions::Kind::kBelady;
    return options;
  }
  const std::string prefix = "lfu:";
  const std::optional<double> decay = text == "lfu" ? 0.99
                                      : text.compare(0, prefix.size(), prefix) == 0
                                          ? parse_number(text.substr(prefix.size()))
                                          : std::nullopt;
  if (!decay || *decay > 1)
    throw Error(ErrorCode::kUsage, Setting{"eviction"},
                in_quotes(text) + " is no way to choose what leaves the cache",
                "Possible are: lru; lfu; lfu:DECAY with a DECAY of 0 to 1; in simulations, belady");
  options.kind = EvictionOptions::Kind::kLfu;
  options.decay = *decay;
  return options;
}

}  // namespace moe_mobile
