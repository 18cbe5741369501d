// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "routing/method.h"
#include "routing/router_scores.h"
#include "routing/router_spec.h"
#include "routing/routing_options.h"

namespace moe_mobile {

// Which of a layer's experts are cached: a byte per expert, 1 if it counts as cached. `best` holds
// for the router's `ranks` best experts, `rest` for the others: they have different precisions and
// thus separate caches.
struct CachedExperts {
  // One cache for all ranks.
  CachedExperts(const uint8_t* all) : rest(all) {}
  CachedExperts(const uint8_t* best_ranks, uint32_t count, const uint8_t* others)
      : rest(others), best(best_ranks), ranks(count) {}

  const uint8_t* rest;
  const uint8_t* best = nullptr;
  uint32_t ranks = 0;  // less than top_k
};

// Routes the tokens of one sequence after another, in the engine and in the lab. Its decisions
// depend only on the logits since reset() and on the masks it is given.
class Router {
 public:
  // REQUIRES: check_router() accepts the spec, and the options are from resolve_routing(), with a
  // `first` that counts these layers.
  Router(const RouterSpec& spec, const RoutingOptions& options, uint32_t num_layers);

  void reset();

  // A token of a prompt: routed exactly; the method sees it too.
  // REQUIRES: the logits are finite, here and below.
  void prefill(uint32_t layer, const float* logits, Selection* out);
  // A token being decoded.
  void decode(uint32_t layer, const float* logits, const CachedExperts& cached, Selection* out);
  // The same without weights, which only the model needs.
  void decide(uint32_t layer, const float* logits, const CachedExperts& cached, Selection* out);

 private:
  Ranking rank(uint32_t layer, const float* logits, Selection* out);
  // A mask of the cached experts, valid until the next call.
  const uint8_t* merged(const CachedExperts& cached);

  const uint32_t num_experts_;
  RouterScores scores_;
  const RoutingOptions options_;
  std::unique_ptr<RoutingMethod> method_;  // null: exact
  Ranking ranking_;
  std::vector<uint8_t> mask_;
};

}  // namespace moe_mobile
