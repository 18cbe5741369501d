// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "routing/router.h"

#include <algorithm>

#include "routing/drop_cold.h"
#include "routing/top_k.h"

namespace moe_mobile {

Router::Router(const RouterSpec& spec, const RoutingOptions& options, uint32_t num_layers)
    : num_experts_(spec.num_experts), scores_(spec), options_(options) {
  if (options.method->make == nullptr) return;
  MethodSettings settings;
  settings.value = options.value;
  settings.guaranteed = *options.guaranteed;
  settings.num_experts = spec.num_experts;
  settings.top_k = spec.top_k;
  settings.num_layers = num_layers;
  method_ = options.method->make(settings);
}

void Router::reset() {
  if (method_) method_->reset();
}

Ranking Router::rank(uint32_t layer, const float* logits, Selection* out) {
  const Ranking ranking = scores_.rank(layer, logits);
  if (method_ && layer >= options_.first && ranking.top_k > 0) method_->observe(ranking);
  out->experts.assign(ranking.best, ranking.best + ranking.top_k);
  out->dropped.assign(ranking.top_k, 0);
  out->changed = 0;
  return ranking;
}

void Router::prefill(uint32_t layer, const float* logits, Selection* out) {
  const Ranking ranking = rank(layer, logits, out);
  scores_.weigh(ranking, logits, out);
}

const uint8_t* Router::merged(const CachedExperts& cached) {
  if (cached.ranks == 0) return cached.rest;
  mask_.assign(cached.rest, cached.rest + num_experts_);
  for (uint32_t rank = 0; rank < std::min(cached.ranks, ranking_.top_k); ++rank)
    mask_[ranking_.best[rank]] = cached.best[ranking_.best[rank]];
  return mask_.data();
}

void Router::decide(uint32_t layer, const float* logits, const CachedExperts& masks,
                    Selection* out) {
  ranking_ = rank(layer, logits, out);
  if (layer < options_.first || ranking_.top_k == 0) return;
  if (!method_ && options_.drop_cold == 0) return;
  const uint8_t* cached = merged(masks);
  if (method_) {
    std::vector<uint32_t>& experts = out->experts;
    method_->choose(ranking_, cached, experts.data());
    const uint32_t last = ranking_.best[ranking_.top_k - 1];
    for (const uint32_t expert : experts)
      out->changed += comes_before(ranking_.z, last, expert) ? 1 : 0;
    // They are few and nearly sorted.
    for (size_t i = 1; i < experts.size(); ++i) {
      const uint32_t expert = experts[i];
      size_t at = i;
      for (; at > 0 && comes_before(ranking_.z, expert, experts[at - 1]); --at)
        experts[at] = experts[at - 1];
      experts[at] = expert;
    }
  }
  if (options_.drop_cold > 0) drop_cold(options_.drop_cold, ranking_, cached, out);
}

void Router::decode(uint32_t layer, const float* logits, const CachedExperts& cached,
                    Selection* out) {
  decide(layer, logits, cached, out);
  scores_.weigh(ranking_, logits, out);
  move_dropped_weights(out);
}

}  // namespace moe_mobile
