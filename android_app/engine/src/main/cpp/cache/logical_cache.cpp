// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "cache/logical_cache.h"

namespace moe_mobile {

LogicalCache::LogicalCache(const LogicalCacheOptions& options) : options_(options) { clear(); }

Span<const ExpertKey> LogicalCache::access(uint32_t layer, Span<const uint32_t> chosen,
                                           uint8_t* uncached) {
  if (options_.global) {
    chosen_.clear();
    for (const uint32_t expert : chosen) chosen_.push_back(base(layer) + expert);
    chosen = chosen_;
  }
  const Span<const uint32_t> out = pool(layer).access(chosen, uncached);
  evicted_.clear();
  for (const uint32_t expert : out) evicted_.push_back(key(layer, expert));
  return evicted_;
}

void LogicalCache::resize(uint32_t capacity) {
  for (ExpertPool& pool : pools_) pool.resize(capacity);
  options_.capacity = capacity;
}

void LogicalCache::set_next_use(uint32_t layer, uint32_t expert, double when) {
  pool(layer).set_next_use(base(layer) + expert, when);
}

uint32_t LogicalCache::size() const {
  uint32_t size = 0;
  for (const ExpertPool& pool : pools_) size += pool.size();
  return size;
}

std::vector<ExpertKey> LogicalCache::by_recency() const {
  std::vector<ExpertKey> keys;
  for (uint32_t layer = 0; layer < pools_.size(); ++layer)
    for (const uint32_t expert : pools_[layer].by_recency()) keys.push_back(key(layer, expert));
  return keys;
}

void LogicalCache::clear() {
  const uint32_t pools = options_.global ? 1 : options_.layers;
  const uint32_t experts = options_.experts * (options_.global ? options_.layers : 1);
  pools_.assign(pools, ExpertPool(experts, options_.capacity, options_.eviction));
}

void LogicalCache::fill(Span<const std::vector<uint32_t>> best) {
  clear();
  std::vector<ExpertKey> keys;
  for (uint32_t rank = 0; rank < options_.experts; ++rank)
    for (uint32_t layer = 0; layer < best.size(); ++layer)
      if (rank < best[layer].size() && (options_.global ? keys.size() : rank) < options_.capacity)
        keys.push_back(key(layer, base(layer) + best[layer][rank]));
  uint8_t uncached;
  for (auto key = keys.rbegin(); key != keys.rend(); ++key)
    access(key->layer, Span<const uint32_t>(&key->expert, 1), &uncached);
}

ExpertKey LogicalCache::key(uint32_t layer, uint32_t expert) const {
  if (!options_.global) return {layer, expert, options_.variant};
  return {expert / options_.experts, expert % options_.experts, options_.variant};
}

}  // namespace moe_mobile
