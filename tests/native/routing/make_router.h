// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "routing/router.h"

namespace moe_mobile::testing {

// A router with the options in `text`, for a cache that holds `capacity` experts per layer.
inline Router make_router(const RouterSpec& spec, const std::string& text, uint32_t layers = 1,
                          double capacity = 1) {
  check_router(spec, layers);
  return Router(spec, resolve_routing(parse_routing(text), spec, layers, capacity).options, layers);
}

}  // namespace moe_mobile::testing
