// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "routing/selector.h"

#include <algorithm>
#include <string>

#include "base/error.h"

namespace moe_mobile {
namespace {

[[noreturn]] void refuse(const char* setting, const std::string& cause, const char* remedy) {
  throw Error(ErrorCode::kUsage, Setting{setting}, cause, remedy);
}

void check_profile(const SelectorSettings& settings) {
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
      refuse("initial_cache", "the profile names an expert twice, or one that does not exist",
             "Give a profile of this model.");
  }
}

LogicalCacheOptions cache_options(const SelectorSettings& settings) {
  LogicalCacheOptions options;
  options.layers = static_cast<uint32_t>(settings.layers.size());
  options.experts = settings.router.num_experts;
  options.global = settings.global;
  options.capacity = settings.capacity;
  options.eviction = settings.eviction;
  return options;
}

void check_capacity(const SelectorSettings& settings) {
  const uint32_t top_k = settings.router.top_k;
  const uint64_t all =
      uint64_t{settings.router.num_experts} * (settings.global ? settings.layers.size() : 1);
  const std::string cache = "a cache for " + std::to_string(settings.capacity) +
                            (settings.global ? " experts" : " experts per layer");
  if (settings.capacity < top_k)
    throw Error(ErrorCode::kBudget, Setting{"capacity"},
                cache + " does not hold the " + std::to_string(top_k) + " of one token",
                "Give " + std::to_string(top_k) + " to " + std::to_string(all) + ".");
  if (settings.capacity > all)
    refuse("capacity", cache + " is larger than all " + std::to_string(all) + " of them",
           "Give at most the number of experts.");
}

SelectorSettings checked(const SelectorSettings& settings) {
  const std::vector<uint32_t>& layers = settings.layers;
  if (layers.empty() ||
      std::adjacent_find(layers.begin(), layers.end(),
                         [](uint32_t a, uint32_t b) { return a >= b; }) != layers.end())
    refuse("layers", "the numbers of the layers are not ascending",
           "Give the numbers of the model's layers with experts.");
  const auto num_layers = static_cast<uint32_t>(layers.size());
  check_router(settings.router, num_layers);
  check_capacity(settings);
  if (settings.initial == SelectorSettings::Initial::kProfile || !settings.profile.empty())
    check_profile(settings);
  return settings;
}

// A token's experts of one layer, without the ranks that it does not use.
Span<const uint32_t> used_ranks(const uint32_t* selected, size_t top_k) {
  return {selected,
          static_cast<size_t>(std::find(selected, selected + top_k, Selection::kNone) - selected)};
}

// `first` counts the model's layers, the router those with experts.
RoutingOptions with_own_layers(RoutingOptions options, const std::vector<uint32_t>& layers) {
  options.first = static_cast<uint32_t>(
      std::lower_bound(layers.begin(), layers.end(), options.first) - layers.begin());
  return options;
}

}  // namespace

Selector::Selector(const SelectorSettings& settings)
    : settings_(checked(settings)),
      routing_(resolve_routing(settings.routing, settings.router, settings.layers.back() + 1,
                               settings.capacity_per_layer())),
      router_(settings.router, with_own_layers(settings.routing, settings.layers),
              static_cast<uint32_t>(settings.layers.size()), settings.capacity_per_layer()),
      cache_(cache_options(settings)),
      kept_(settings.router.top_k),
      uncached_(settings.router.top_k),
      scratch_(settings.router.top_k) {
  if (settings_.initial == SelectorSettings::Initial::kWarm) cache_.fill(settings_.profile);
  reset();
}

void Selector::reset() {
  router_.reset();
  begun_ = false;
  switch (settings_.initial) {
    case SelectorSettings::Initial::kCold:
    case SelectorSettings::Initial::kPrompt:
      cache_.clear();
      break;
    case SelectorSettings::Initial::kProfile:
      cache_.fill(settings_.profile);
      break;
    case SelectorSettings::Initial::kWarm:
      break;
  }
}

void Selector::resize(uint32_t capacity) {
  SelectorSettings resized = settings_;
  resized.capacity = capacity;
  check_capacity(resized);
  cache_.resize(capacity);
  settings_.capacity = capacity;
}

void Selector::replay(Span<const uint32_t> selected) {
  const size_t top_k = settings_.router.top_k;
  const auto layers = static_cast<uint32_t>(settings_.layers.size());
  if (begun_ || prompt_is_cached())
    for (size_t at = 0; at + layers * top_k <= selected.size();)
      for (uint32_t layer = 0; layer < layers; ++layer, at += top_k)
        cache_.access(layer, used_ranks(selected.data() + at, top_k), scratch_.data());
  begun_ = true;
}

Selector::Use Selector::decode(uint32_t layer, const float* logits, Selection* out) {
  router_.decode(layer, logits, cache_.cached(layer), out);
  begun_ = true;
  return use(layer, *out);
}

Selector::Use Selector::use(uint32_t layer, const Selection& selection) {
  const uint8_t* cached = cache_.cached(layer);
  uint32_t kept = 0;
  const size_t ranks = selection.experts.size();
  if (ranks < uncached_.size()) std::fill(uncached_.begin(), uncached_.end(), 0);
  for (size_t rank = 0; rank < ranks; ++rank) {
    const uint32_t expert = selection.experts[rank];
    uncached_[rank] = cached[expert] ^ 1;
    if (selection.dropped[rank] == 0) kept_[kept++] = expert;
  }
  return {cache_.access(layer, {kept_.data(), kept}, scratch_.data()), uncached_};
}

}  // namespace moe_mobile
