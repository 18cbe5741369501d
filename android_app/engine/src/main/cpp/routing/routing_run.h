// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "routing/selector.h"

namespace moe_mobile {

// Totals of decoding over all sequences.
struct RunTotals {
  uint64_t slots = 0;  // selected experts of all tokens and layers: top_k each, or fewer with relu
  uint64_t uncached = 0;  // selected but not in the cache before
  uint64_t dropped = 0;
  uint64_t changed = 0;  // selections that differ from exact routing
  uint64_t evictions = 0;
  uint64_t lifetime_tokens = 0;  // of all evicted experts, from load to eviction
};

// A token in a layer. Valid until the next one.
struct RunStep {
  const Selection& selection;            // without weights
  const std::vector<uint8_t>& uncached;  // top_k; 1: this rank was not in the cache before
};

// Runs the engine's selector without a model, on the router logits of one sequence after another,
// and counts what it does.
class RoutingRun {
 public:
  // Throws as Selector does; also kBudget if the cache holds less than top_k experts per layer.
  explicit RoutingRun(const SelectorSettings& settings);

  const ResolvedRouting& routing() const { return selector_.routing(); }
  const RunTotals& totals() const { return totals_; }
  const std::vector<LogicalCache>& caches() const { return selector_.caches(); }
  uint32_t top_k() const { return selector_.settings().router.top_k; }

  // Begins the next sequence, see Selector::reset(). The totals are kept.
  void reset();
  // The next token of a layer, decoded or in the prompt. A prompt is routed exactly, and goes
  // through the cache only if that decides the initial cache. kUsage if a global pool is not given
  // all layers of a token before the next token. For Belady `next_use` says when each selected
  // expert is used next.
  // REQUIRES: the logits are finite.
  RunStep step(uint32_t layer, const float* logits, bool prompt, const double* next_use = nullptr);
  // For Belady, when each expert is used first; before the sequence begins.
  void set_next_use(uint32_t layer, uint32_t expert, double when) {
    selector_.set_next_use(layer, expert, when);
  }

 private:
  const std::vector<uint8_t>& use(uint32_t layer, bool counts);
  uint64_t& loaded_at(uint32_t variant, uint32_t layer, uint32_t expert) {
    return loaded_at_[(variant * tokens_.size() + layer) * selector_.settings().router.num_experts +
                      expert];
  }

  Selector selector_;
  uint32_t next_layer_ = 0;
  std::vector<uint64_t> tokens_;     // tokens that went through the cache, per layer
  std::vector<uint64_t> loaded_at_;  // token, per variant, layer and expert
  Selection selection_;
  RunTotals totals_;
};

}  // namespace moe_mobile
