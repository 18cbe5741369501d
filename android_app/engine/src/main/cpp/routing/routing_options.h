// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "routing/method.h"
#include "routing/router_spec.h"

namespace moe_mobile {

// How experts are chosen, as in "cache-prior:0.2,J=2,first=1+drop-cold:0.75".
struct RoutingOptions {
  const MethodInfo* method = routing_methods()[0];  // exact
  double value = 0;
  bool automatic = false;
  std::optional<uint32_t> guaranteed;  // J
  uint32_t first = 0;                  // layers before it stay exact
  double drop_cold = 0;                // 0: nothing is dropped
};

// kUsage naming the part that is wrong and what is possible.
RoutingOptions parse_routing(const std::string& text);
// Parses to the same options.
std::string to_text(const RoutingOptions& options);

// Options with everything settled for one model and cache: automatic values and J. A method whose
// J is top_k is exact routing (routers of one expert by default), and so is all that begins after
// the last layer; `note` says so.
struct ResolvedRouting {
  RoutingOptions options;
  std::string text;  // canonical; parses to the same
  std::string note;

  // Whether the model may compute anything else than it would by itself.
  bool lossy() const { return options.method->make != nullptr || options.drop_cold > 0; }
};
// `layers_end`: the number after that of the last layer that routes, counted as `first` counts.
ResolvedRouting resolve_routing(const RoutingOptions& options, const RouterSpec& spec,
                                uint32_t layers_end, double capacity_per_layer);

}  // namespace moe_mobile
