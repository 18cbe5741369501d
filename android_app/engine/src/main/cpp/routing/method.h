// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>

#include "base/span.h"

namespace moe_mobile {

// The output of one layer's router for one token.
struct Ranking {
  uint32_t layer = 0;
  uint32_t num_experts = 0;
  uint32_t top_k = 0;        // to select: the router's, or all that are eligible if those are fewer
  const float* z = nullptr;  // what the model sorts by; -infinity: not eligible
  const float* scores = nullptr;   // the experts' gates; null: the softmax of z
  const uint32_t* best = nullptr;  // the top_k first of z in order: exact routing
  bool limited = false;            // some experts are not eligible
};

// Selects experts that may differ from the exact ones, given which experts the layer has cached.
// One instance serves one sequence at a time and keeps that sequence's state.
class RoutingMethod {
 public:
  virtual ~RoutingMethod() = default;
  virtual void reset() {}
  // Sees each token of each layer that is not exact, prompt included, before choose(). Neither is
  // called for a token without eligible experts.
  virtual void observe(const Ranking&) {}
  // Writes top_k distinct eligible experts to `chosen`, in any order. `cached` has a byte per
  // expert of the layer: 1 if it is in the cache, else 0.
  virtual void choose(const Ranking& ranking, const uint8_t* cached, uint32_t* chosen) = 0;
};

// The parameters that a method is constructed with.
struct MethodSettings {
  double value = 0;         // what follows the colon
  uint32_t guaranteed = 0;  // J: the J best are always selected; less than top_k
  uint32_t num_experts = 0;
  uint32_t top_k = 0;
  uint32_t num_layers = 0;
  double capacity = 0;  // experts that the cache holds per layer; for `automatic` only
};

// A method's row in the registry.
struct MethodInfo {
  const char* name;
  const char* form;                            // how it is written, for errors
  bool (*accepts)(double value);               // null: takes no value
  double (*automatic)(const MethodSettings&);  // the value of NAME:auto; null: no such value
  std::unique_ptr<RoutingMethod> (*make)(const MethodSettings&);  // null: exact routing
};

// All methods; the first is exact routing.
Span<const MethodInfo* const> routing_methods();

}  // namespace moe_mobile
