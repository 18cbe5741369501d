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

std::vector<LogicalCache> make_caches(const SelectorSettings& settings) {
  LogicalCacheOptions options;
  options.layers = static_cast<uint32_t>(settings.layers.size());
  options.experts = settings.router.num_experts;
  options.global = settings.global;
  options.capacity = settings.capacity;
  options.eviction = settings.eviction;
  std::vector<LogicalCache> caches = {LogicalCache(options)};
  if (settings.precision.ranks(1, settings.router.top_k) > 0) {
    options.variant = 1;
    options.capacity = settings.low_capacity;
    caches.emplace_back(options);
  }
  return caches;
}

// `ranks`: how many experts of one token use this cache.
void check_capacity(const SelectorSettings& settings, uint32_t capacity, uint32_t ranks) {
  const uint64_t all =
      uint64_t{settings.router.num_experts} * (settings.global ? settings.layers.size() : 1);
  const std::string cache = "a cache for " + std::to_string(capacity) +
                            (settings.global ? " experts" : " experts per layer");
  if (capacity < ranks)
    throw Error(ErrorCode::kBudget, Setting{"capacity"},
                cache + " does not hold the " + std::to_string(ranks) + " of one token",
                "Give " + std::to_string(ranks) + " to " + std::to_string(all) + ".");
  if (capacity > all)
    refuse("capacity", cache + " is larger than all " + std::to_string(all) + " of them",
           "Give at most the number of experts.");
}

void check_capacity(const SelectorSettings& settings) {
  const uint32_t top_k = settings.router.top_k;
  check_capacity(settings, settings.capacity, settings.precision.ranks(0, top_k));
  check_capacity(settings, settings.low_capacity, settings.precision.ranks(1, top_k));
}

SelectorSettings checked(const SelectorSettings& settings) {
  const std::vector<uint32_t>& layers = settings.layers;
  if (layers.empty() ||
      std::adjacent_find(layers.begin(), layers.end(),
                         [](uint32_t a, uint32_t b) { return a >= b; }) != layers.end())
    refuse("layers", "the numbers of the layers are not ascending",
           "Give the numbers of the model's layers with experts.");
  check_router(settings.router, static_cast<uint32_t>(layers.size()));
  check_capacity(settings);
  if (settings.initial == InitialCache::kProfile || !settings.profile.empty())
    check_profile(settings);
  return settings;
}

// A token's experts of one layer, without unused ranks.
Span<const uint32_t> used_ranks(const uint32_t* selected, size_t top_k) {
  return {selected,
          static_cast<size_t>(std::find(selected, selected + top_k, Selection::kNone) - selected)};
}

// `first` counts all layers of the model; the router counts only those with experts.
RoutingOptions with_own_layers(RoutingOptions options, const std::vector<uint32_t>& layers) {
  options.first = static_cast<uint32_t>(
      std::lower_bound(layers.begin(), layers.end(), options.first) - layers.begin());
  return options;
}

}  // namespace

double SelectorSettings::capacity_per_layer() const {
  const uint32_t top_k = router.top_k;
  const double pool = (static_cast<double>(precision.ranks(0, top_k)) * capacity +
                       static_cast<double>(precision.ranks(1, top_k)) * low_capacity) /
                      top_k;
  return global ? pool / static_cast<double>(layers.size()) : pool;
}

Selector::Selector(const SelectorSettings& settings)
    : settings_(checked(settings)),
      routing_(resolve_routing(settings.routing, settings.router, settings.layers.back() + 1,
                               settings.capacity_per_layer())),
      router_(settings.router, with_own_layers(routing_.options, settings.layers),
              static_cast<uint32_t>(settings.layers.size())),
      caches_(make_caches(settings)),
      kept_(settings.router.top_k),
      uncached_(settings.router.top_k),
      scratch_(settings.router.top_k) {
  if (settings_.initial == InitialCache::kWarm)
    for (LogicalCache& cache : caches_) cache.fill(settings_.profile);
  reset();
}

CachedExperts Selector::cached(uint32_t layer) const {
  if (caches_.size() == 1) return caches_[0].cached(layer);
  return {caches_[0].cached(layer), ranks(0), caches_[1].cached(layer)};
}

void Selector::reset() {
  router_.reset();
  begun_ = false;
  switch (settings_.initial) {
    case InitialCache::kCold:
    case InitialCache::kPrompt:
      for (LogicalCache& cache : caches_) cache.clear();
      break;
    case InitialCache::kProfile:
      for (LogicalCache& cache : caches_) cache.fill(settings_.profile);
      break;
    case InitialCache::kAuto:
    case InitialCache::kWarm:
      break;
  }
}

void Selector::resize(uint32_t capacity, uint32_t low_capacity) {
  SelectorSettings resized = settings_;
  resized.capacity = capacity;
  resized.low_capacity = low_capacity;
  check_capacity(resized);
  for (LogicalCache& cache : caches_)
    cache.resize(cache.options().variant == 0 ? capacity : low_capacity);
  settings_.capacity = capacity;
  settings_.low_capacity = low_capacity;
}

void Selector::replay(Span<const uint32_t> selected) {
  const size_t top_k = settings_.router.top_k;
  const auto layers = static_cast<uint32_t>(settings_.layers.size());
  if (begun_ || prompt_is_cached())
    for (size_t at = 0; at + layers * top_k <= selected.size();)
      for (uint32_t layer = 0; layer < layers; ++layer, at += top_k) {
        const Span<const uint32_t> used = used_ranks(selected.data() + at, top_k);
        size_t rank = 0;
        for (uint32_t variant = 0; variant < caches_.size(); ++variant) {
          const size_t end = std::min(used.size(), rank + ranks(variant));
          if (rank < end)
            caches_[variant].access(layer, {used.data() + rank, end - rank}, scratch_.data());
          rank = end;
        }
      }
  begun_ = true;
}

Selector::Use Selector::decode(uint32_t layer, const float* logits, Selection* out) {
  router_.decode(layer, logits, cached(layer), out);
  begun_ = true;
  return use(layer, *out);
}

const std::vector<uint8_t>& Selector::uncached(uint32_t layer, const Selection& selection) {
  const size_t used = selection.experts.size();
  std::fill(uncached_.begin() + static_cast<ptrdiff_t>(used), uncached_.end(), uint8_t{0});
  size_t rank = 0;
  for (uint32_t variant = 0; variant < caches_.size(); ++variant) {
    const uint8_t* cached = caches_[variant].cached(layer);
    for (const size_t end = std::min(used, rank + ranks(variant)); rank < end; ++rank)
      uncached_[rank] = cached[selection.experts[rank]] ^ 1;
  }
  return uncached_;
}

Span<const ExpertKey> Selector::access(uint32_t variant, uint32_t layer, const Selection& selection,
                                       size_t first, size_t end) {
  uint32_t kept = 0;
  for (size_t rank = first; rank < end; ++rank) {
    kept_[kept] = selection.experts[rank];
    kept += selection.dropped[rank] ^ 1;
  }
  if (kept == 0) return {};
  return caches_[variant].access(layer, {kept_.data(), kept}, scratch_.data());
}

Selector::Use Selector::use(uint32_t layer, const Selection& selection) {
  uncached(layer, selection);
  const size_t used = selection.experts.size();
  if (caches_.size() == 1) return {access(0, layer, selection, 0, used), uncached_};
  const size_t split = std::min<size_t>(used, ranks(0));
  const Span<const ExpertKey> best = access(0, layer, selection, 0, split);
  const Span<const ExpertKey> rest = access(1, layer, selection, split, used);
  evicted_.assign(best.begin(), best.end());
  evicted_.insert(evicted_.end(), rest.begin(), rest.end());
  return {evicted_, uncached_};
}

}  // namespace moe_mobile
