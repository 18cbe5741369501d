// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>

#include "base/span.h"

namespace moe_mobile {

// What the router of one layer says of one token.
struct Ranking {
  uint32_t layer = 0;
  uint32_t num_experts = 0;
  uint32_t top_k = 0;        // to select: the router's, or all that are eligible if those are fewer
  const float* z = nullptr;  // what the model sorts; -infinity: not eligible
  const float* scores = nullptr;   // the experts' gates; null: the softmax of z
  const uint32_t* best = nullptr;  // the top_k first of z in order: exact routing
  bool limited = false;            // some experts are not eligible
};

// Which experts are selected instead of the exact ones, given what the layer has cached. One
// instance serves one sequence at a time and keeps what it must remember of it.
class RoutingMethod {
 public:
  virtual ~RoutingMethod() = default;
  virtual void reset() {}
  // Sees each token of each layer that is not exact, prompt included, before choose(). Neither is
  // called for a token without eligible experts.
  virtual void observe(const Ranking&) {}
  // Writes top_k distinct eligible experts to `chosen`, in any order. `cached` has a byte per
  // expert of the layer, 1 where it is in the cache.
  virtual void choose(const Ranking& ranking, const uint8_t* cached, uint32_t* chosen) = 0;
};

// What a method is made with.
struct MethodSettings {
  double value = 0;         // what follows the colon
  uint32_t guaranteed = 0;  // J: the J best are always selected; less than top_k
  uint32_t num_experts = 0;
  uint32_t top_k = 0;
  uint32_t num_layers = 0;
  double capacity = 0;  // experts that the cache holds per layer
};

// A method's row in the registry.
struct MethodInfo {
  const char* name;
  const char* form;                            // how it is written, for errors
  bool (*accepts)(double value);               // null: nothing follows the name
  double (*automatic)(const MethodSettings&);  // the value of NAME:auto; null: there is none
  std::unique_ptr<RoutingMethod> (*make)(const MethodSettings&);  // null: exact routing
};

// All methods; the first is exact routing.
Span<const MethodInfo* const> routing_methods();

}  // namespace moe_mobile
