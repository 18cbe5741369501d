// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "routing/routing_run.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/error.h"

namespace moe_mobile {
namespace {

[[noreturn]] void refuse(const char* setting, const std::string& cause, const char* remedy) {
  throw Error(ErrorCode::kUsage, Setting{setting}, cause, remedy);
}

void check_profile(const RunSettings& settings) {
  if (settings.profile.size() != settings.layers.size())
    refuse("initial_cache",
           "the profile has " + std::to_string(settings.profile.size()) + " layers, the model " +
               std::to_string(settings.layers.size()),
           "Give a profile of this model.");
  for (const std::vector<uint32_t>& layer : settings.profile) {
    std::vector<uint32_t> sorted = layer;
    std::sort(sorted.begin(), sorted.end());
    if (std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end() ||
        (!sorted.empty() && sorted.back() >= settings.router.num_experts))
      refuse("initial_cache", "the profile names an expert twice, or one that is not there",
             "Give a profile of this model.");
  }
}

RunSettings checked(const RunSettings& settings) {
  const std::vector<uint32_t>& layers = settings.layers;
  if (layers.empty() ||
      std::adjacent_find(layers.begin(), layers.end(),
                         [](uint32_t a, uint32_t b) { return a >= b; }) != layers.end())
    refuse("layers", "they are no ascending numbers", "Give the numbers of the model's layers.");
  check_router(settings.router, static_cast<uint32_t>(layers.size()));
  const uint32_t top_k = settings.router.top_k;
  if (settings.capacity < top_k)
    throw Error(ErrorCode::kBudget, Setting{"capacity"},
                "a cache for " + std::to_string(settings.capacity) +
                    " experts per layer does not hold the " + std::to_string(top_k) +
                    " of one token",
                "Give " + std::to_string(top_k) + " to " +
                    std::to_string(settings.router.num_experts) + ".");
  if (settings.capacity > settings.router.num_experts)
    refuse("capacity",
           "a cache for " + std::to_string(settings.capacity) + " of " +
               std::to_string(settings.router.num_experts) +
               " experts per layer is larger than all of them",
           "Give at most the number of experts.");
  if (settings.initial == RunSettings::Initial::kProfile) check_profile(settings);
  return settings;
}

// "first" counts the model's layers, the router those with experts.
RoutingOptions with_own_layers(RoutingOptions options, const std::vector<uint32_t>& layers) {
  options.first = static_cast<uint32_t>(
      std::lower_bound(layers.begin(), layers.end(), options.first) - layers.begin());
  return options;
}

LogicalCacheOptions cache_options(const RunSettings& settings) {
  LogicalCacheOptions options;
  options.layers = static_cast<uint32_t>(settings.layers.size());
  options.experts = settings.router.num_experts;
  options.global = settings.global;
  options.capacity = settings.capacity * (settings.global ? options.layers : 1);
  options.eviction = settings.eviction;
  return options;
}

}  // namespace

RoutingRun::RoutingRun(const RunSettings& settings)
    : settings_(checked(settings)),
      routing_(resolve_routing(settings.routing, settings.router, settings.layers.back() + 1,
                               settings.capacity)),
      router_(settings.router, with_own_layers(settings.routing, settings.layers),
              static_cast<uint32_t>(settings.layers.size()), settings.capacity),
      cache_(cache_options(settings)),
      tokens_(settings.layers.size()),
      loaded_at_(settings.layers.size() * settings.router.num_experts),
      missed_(settings.router.top_k),
      kept_(settings.router.top_k),
      loaded_(settings.router.top_k) {
  reset();
}

void RoutingRun::reset() {
  router_.reset();
  std::fill(tokens_.begin(), tokens_.end(), 0);
  next_layer_ = 0;
  if (settings_.initial == RunSettings::Initial::kProfile) {
    std::fill(loaded_at_.begin(), loaded_at_.end(), 0);
    cache_.fill(settings_.profile);
  } else {
    cache_.clear();
  }
}

RunStep RoutingRun::step(uint32_t layer, const float* logits, bool prompt, const double* next_use) {
  if (layer >= tokens_.size())
    refuse(
        "layer",
        "there is no layer " + std::to_string(layer) + " among " + std::to_string(tokens_.size()),
        "Count the layers that have experts, from 0.");
  if (settings_.global && layer != next_layer_)
    refuse("layer",
           "layer " + std::to_string(layer) + " is not the next one, which is " +
               std::to_string(next_layer_),
           "Give all layers of a token in order; one pool for all depends on it.");
  next_layer_ = layer + 1 == tokens_.size() ? 0 : layer + 1;
  const uint8_t* cached = cache_.cached(layer);
  if (prompt) {
    router_.prefill(layer, logits, &selection_);
  } else {
    router_.decide(layer, logits, cached, &selection_);
    totals_.changed += selection_.changed;
    totals_.slots += missed_.size();
  }
  for (size_t rank = 0; rank < missed_.size(); ++rank) {
    const uint32_t expert = selection_.experts[rank];
    missed_[rank] = cached[expert] ^ 1;
    if (next_use != nullptr) cache_.set_next_use(layer, expert, next_use[rank]);
    if (prompt) continue;
    totals_.misses += missed_[rank];
    totals_.dropped += selection_.dropped[rank];
  }
  if (!prompt || settings_.initial == RunSettings::Initial::kPrompt) use(layer, !prompt);
  return {selection_, missed_};
}

void RoutingRun::use(uint32_t layer, bool counts) {
  uint32_t kept = 0;
  for (size_t rank = 0; rank < missed_.size(); ++rank)
    if (selection_.dropped[rank] == 0) kept_[kept++] = selection_.experts[rank];
  const Span<const ExpertKey> evicted = cache_.access(layer, {kept_.data(), kept}, loaded_.data());
  const uint64_t now = tokens_[layer]++, experts = settings_.router.num_experts;
  if (counts) {
    for (const ExpertKey& key : evicted)
      totals_.lifetime_tokens += now - loaded_at_[key.layer * experts + key.expert];
    totals_.evictions += evicted.size();
  }
  for (uint32_t i = 0; i < kept; ++i)
    if (loaded_[i] != 0) loaded_at_[layer * experts + kept_[i]] = now;
}

}  // namespace moe_mobile
