// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "routing/routing_run.h"

#include <algorithm>
#include <string>

#include "base/error.h"

namespace moe_mobile {
namespace {

[[noreturn]] void refuse_layer(const std::string& cause, const char* remedy) {
  throw Error(ErrorCode::kUsage, Setting{"layer"}, cause, remedy);
}

}  // namespace

RoutingRun::RoutingRun(const SelectorSettings& settings)
    : selector_(settings),
      tokens_(settings.layers.size()),
      loaded_at_(selector_.caches().size() * settings.layers.size() * settings.router.num_experts) {
  // An engine may be allowed a smaller cache, but a simulation of it shows nothing: LRU never hits.
  if (settings.capacity_per_layer() < settings.router.top_k)
    throw Error(ErrorCode::kBudget, Setting{"capacity"},
                "a cache for " + std::to_string(settings.capacity) + " experts of " +
                    std::to_string(settings.layers.size()) + " layers does not hold the " +
                    std::to_string(settings.router.top_k) + " that one token uses in each",
                "Give at least " + std::to_string(settings.router.top_k) + " per layer.");
}

void RoutingRun::reset() {
  selector_.reset();
  std::fill(tokens_.begin(), tokens_.end(), 0);
  next_layer_ = 0;
  if (selector_.settings().initial == InitialCache::kProfile)
    std::fill(loaded_at_.begin(), loaded_at_.end(), 0);
}

RunStep RoutingRun::step(uint32_t layer, const float* logits, bool prompt, const double* next_use) {
  if (layer >= tokens_.size())
    refuse_layer(
        "there is no layer " + std::to_string(layer) + " among " + std::to_string(tokens_.size()),
        "Count the layers that have experts, from 0.");
  if (selector_.settings().global && layer != next_layer_)
    refuse_layer("layer " + std::to_string(layer) + " is not the next one, which is " +
                     std::to_string(next_layer_),
                 "Give all layers of a token in order; one pool for all depends on it.");
  next_layer_ = layer + 1 == tokens_.size() ? 0 : layer + 1;
  if (prompt) {
    selector_.prompt(layer, logits, &selection_);
  } else {
    selector_.decide(layer, logits, &selection_);
    totals_.changed += selection_.changed;
    totals_.slots += selection_.experts.size();
  }
  if (next_use != nullptr)
    for (size_t rank = 0; rank < selection_.experts.size(); ++rank)
      selector_.set_next_use(layer, selection_.experts[rank], next_use[rank]);
  const bool used = !prompt || selector_.prompt_is_cached();
  return {selection_, used ? use(layer, !prompt) : selector_.uncached(layer, selection_)};
}

const std::vector<uint8_t>& RoutingRun::use(uint32_t layer, bool counts) {
  const Selector::Use use = selector_.use(layer, selection_);
  const uint64_t now = tokens_[layer]++;
  if (counts) {
    for (const ExpertKey& key : use.evicted)
      totals_.lifetime_tokens += now - loaded_at(key.variant, key.layer, key.expert);
    totals_.evictions += use.evicted.size();
  }
  for (size_t rank = 0; rank < selection_.experts.size(); ++rank) {
    const uint8_t uncached = use.uncached[rank], dropped = selection_.dropped[rank];
    if (counts) {
      totals_.uncached += uncached;
      totals_.dropped += dropped;
    }
    if (uncached > dropped)
      loaded_at(selector_.variant(static_cast<uint32_t>(rank)), layer, selection_.experts[rank]) =
          now;
  }
  return use.uncached;
}

}  // namespace moe_mobile
