// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "routing/router_spec.h"

namespace moe_mobile {

struct MethodInfo;
// Exact routing.
const MethodInfo* exact_method();

// How experts are chosen, as in "cache-prior:0.2,J=2,first=1+drop-cold:0.75".
struct RoutingOptions {
  const MethodInfo* method = exact_method();
  double value = 0;
  bool automatic = false;
  std::optional<uint32_t> guaranteed;  // J
  uint32_t first = 0;                  // the layers before this one stay exact
  double drop_cold = 0;                // 0: nothing is dropped
};

// kUsage naming the invalid part and the valid values.
RoutingOptions parse_routing(const std::string& text);
// Parses to the same options.
std::string to_text(const RoutingOptions& options);

// Options for one model and cache, with automatic values and J filled in. A method with J = top_k
// is exact routing (the default for top-1 routers), and so is a method whose `first` is after the
// last layer; `note` says so.
struct ResolvedRouting {
  RoutingOptions options;
  std::string text;  // canonical; parses to the same
  std::string note;

  // Whether the output may differ from what the model computes.
  bool lossy() const;
};
// `layers_end`: one more than the number of the last layer that routes, numbered as for `first`.
ResolvedRouting resolve_routing(const RoutingOptions& options, const RouterSpec& spec,
                                uint32_t layers_end, double capacity_per_layer);

}  // namespace moe_mobile
