// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "cache/logical_cache.h"
#include "routing/router.h"

namespace moe_mobile {

struct RunSettings {
  // What the cache holds when a sequence's decoding begins.
  enum class Initial {
    kCold,     // nothing
    kPrompt,   // what the prompt left, which began with nothing
    kProfile,  // the first experts of a profile, as many as fit
  };
  RouterSpec router;
  RoutingOptions routing;
  std::vector<uint32_t> layers;  // the model's numbers of those with experts, ascending
  uint32_t capacity = 0;         // experts per layer
  bool global = false;           // one pool of capacity x layers, else a pool per layer
  EvictionOptions eviction;
  Initial initial = Initial::kCold;
  std::vector<std::vector<uint32_t>> profile;  // kProfile: per layer, most used first
};

// Of decoding, in all sequences.
struct RunTotals {
  uint64_t slots = 0;  // token-layers x top_k
  uint64_t misses = 0;
  uint64_t dropped = 0;
  uint64_t changed = 0;  // selections that differ from exact routing
  uint64_t evictions = 0;
  uint64_t lifetime_tokens = 0;  // of all evicted experts, from load to eviction
};

// A token in a layer. Valid until the next one.
struct RunStep {
  const Selection& selection;          // without weights
  const std::vector<uint8_t>& missed;  // per rank; 1: not in the cache before the access
};

// The engine's routing and cache without its model: takes the router logits of one sequence after
// another. Layers are counted from 0 and without those that have no experts.
class RoutingRun {
 public:
  // kUsage or kBudget naming the setting that makes no sense.
  explicit RoutingRun(const RunSettings& settings);

  const ResolvedRouting& routing() const { return routing_; }
  const RunTotals& totals() const { return totals_; }
  const LogicalCache& cache() const { return cache_; }
  uint32_t top_k() const { return settings_.router.top_k; }

  // Begins the next sequence: what the method remembers and the cache are as at first.
  void reset();
  // The next token of a layer, decoded or of the prompt, of finite logits. A prompt is routed
  // exactly, and goes through the cache only where its experts are the initial ones. kUsage where
  // a global pool is not given all layers of a token before the next token. For Belady `next_use`
  // says when each selected expert is used next.
  RunStep step(uint32_t layer, const float* logits, bool prompt, const double* next_use = nullptr);
  // For Belady, when each expert is used first; before the sequence begins.
  void set_next_use(uint32_t layer, uint32_t expert, double when) {
    cache_.set_next_use(layer, expert, when);
  }

 private:
  void use(uint32_t layer, bool counts);

  const RunSettings settings_;
  const ResolvedRouting routing_;
  Router router_;
  LogicalCache cache_;
  uint32_t next_layer_ = 0;
  std::vector<uint64_t> tokens_;     // that went through the cache, per layer
  std::vector<uint64_t> loaded_at_;  // token, per layer and expert
  Selection selection_;
  std::vector<uint8_t> missed_;
  std::vector<uint32_t> kept_;
  std::vector<uint8_t> loaded_;
  RunTotals totals_;
};

}  // namespace moe_mobile
