// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "cache/logical_cache.h"
#include "routing/initial_cache.h"
#include "routing/precision.h"
#include "routing/router.h"

namespace moe_mobile {

struct SelectorSettings {
  RouterSpec router;
  RoutingOptions routing;
  std::vector<uint32_t> layers;  // the model's numbers of those with experts, ascending
  bool global = false;           // one pool that all layers share, instead of one for each
  uint32_t capacity = 0;         // experts in variant 0, of each pool
  uint32_t low_capacity = 0;     // the same for variant 1
  Precision precision;
  EvictionOptions eviction;
  InitialCache initial = InitialCache::kCold;  // not kAuto
  std::vector<std::vector<uint32_t>> profile;  // per layer, most used first; empty: none

  // Experts per layer that the cache of a rank holds, on average over the ranks.
  double capacity_per_layer() const;
};

// Decides which experts run and which are cached: routing and the logical cache together. The
// engine's decoder and the lab use the same class, so they agree on every token.
//
// Each precision has a cache of its own, so a token's ranks never compete across precisions. For
// routing, an expert counts as cached if it is cached in the precision for its rank in the router's
// own ranking. If routing passes over better experts, it moves up and may run in a better
// precision.
//
// Its decisions depend on the logits since reset() and on the cache's contents at that time, never
// on which bytes have arrived in memory. Here and in the cache's keys, layers are numbered from 0
// and count only layers with experts. One thread at a time.
class Selector {
 public:
  // What using the cache changed. Valid until the next use.
  struct Use {
    Span<const ExpertKey> evicted;         // in that order
    const std::vector<uint8_t>& uncached;  // top_k; 1: this rank was not in the cache before
  };

  // kUsage or kBudget naming the invalid setting.
  explicit Selector(const SelectorSettings& settings);

  // The resolved routing; `first` is a layer number of the model.
  const ResolvedRouting& routing() const { return routing_; }
  // The variant (ExpertKey::variant) of an expert selected at this rank.
  uint32_t variant(uint32_t rank) const { return settings_.precision.variant(rank); }
  // By variant; variant 1 exists only if a rank uses it.
  const std::vector<LogicalCache>& caches() const { return caches_; }
  const SelectorSettings& settings() const { return settings_; }

  // Begins the next sequence: the method forgets, and the cache is as `initial` says.
  void reset();

  // Routes a token of a prompt exactly, with weights. The method sees it; the cache does not
  // change.
  // REQUIRES: the logits are finite, here and below.
  void prompt(uint32_t layer, const float* logits, Selection* out) {
    router_.prefill(layer, logits, out);
  }
  // To be called after all layers of a prompt. Puts the prompt's selections, [tokens, layers,
  // top_k] in rank order with Selection::kNone at the end, through the cache token by token, as if
  // decoded. A sequence's first prompt does so only if prompt_is_cached().
  void replay(Span<const uint32_t> selected);
  // Whether a sequence's first prompt goes through the cache.
  bool prompt_is_cached() const {
    return settings_.initial == InitialCache::kPrompt || settings_.initial == InitialCache::kWarm;
  }

  // Routes a decoded token, with weights, given what is cached, and uses the cache.
  Use decode(uint32_t layer, const float* logits, Selection* out);

  // The steps of decode(), for the lab. decide() gives no weights; use() takes the experts of a
  // selection that are not dropped. uncached() looks only.
  void decide(uint32_t layer, const float* logits, Selection* out) {
    router_.decide(layer, logits, cached(layer), out);
  }
  Use use(uint32_t layer, const Selection& selection);
  const std::vector<uint8_t>& uncached(uint32_t layer, const Selection& selection);
  // For Belady, see LogicalCache::set_next_use().
  void set_next_use(uint32_t layer, uint32_t expert, double when) {
    for (LogicalCache& cache : caches_) cache.set_next_use(layer, expert, when);
  }

  // Sets how many experts each pool of variants 0 and 1 holds from now on, as in the settings.
  // Experts that no longer fit are evicted by the eviction policy; the method's state stays. Throws
  // as the constructor does (kBudget, kUsage), and then changes nothing.
  void resize(uint32_t capacity, uint32_t low_capacity = 0);

 private:
  CachedExperts cached(uint32_t layer) const;
  // Uses the ranks from `first` to before `end` that are not dropped.
  Span<const ExpertKey> access(uint32_t variant, uint32_t layer, const Selection& selection,
                               size_t first, size_t end);
  // How many experts of one token use this variant, at most.
  uint32_t ranks(uint32_t variant) const {
    return settings_.precision.ranks(variant, settings_.router.top_k);
  }

  SelectorSettings settings_;
  const ResolvedRouting routing_;
  Router router_;
  std::vector<LogicalCache> caches_;
  bool begun_ = false;  // since reset(): a prompt is complete or a token decoded
  std::vector<uint32_t> kept_;
  std::vector<uint8_t> uncached_, scratch_;
  std::vector<ExpertKey> evicted_;
};

}  // namespace moe_mobile
