// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "base/span.h"
#include "cache/eviction.h"
#include "cache/expert_key.h"
#include "cache/expert_pool.h"

namespace moe_mobile {

struct LogicalCacheOptions {
  uint32_t layers = 0;
  uint32_t experts = 0;   // of each layer
  uint32_t variant = 0;   // of its keys
  bool global = false;    // one pool that all layers share, instead of one for each
  uint32_t capacity = 0;  // of each pool
  EvictionOptions eviction;
};

// What is cached, as routing and eviction see it: it knows nothing about memory or reads, so its
// decisions depend on routing alone, never on what has been read.
class LogicalCache {
 public:
  // kUsage if a pool is larger than all its experts.
  explicit LogicalCache(const LogicalCacheOptions& options);

  // Uses the experts that a layer selected for one token, as ExpertPool::access() does, errors
  // included. Returns the evicted experts, valid until the next access.
  Span<const ExpertKey> access(uint32_t layer, Span<const uint32_t> chosen, uint8_t* uncached);
  // Each pool holds at most `capacity` experts from now on; those that no longer fit are evicted.
  // kUsage if that is more than a pool's experts; then nothing changes.
  void resize(uint32_t capacity);
  // For Belady, as ExpertPool::set_next_use().
  void set_next_use(uint32_t layer, uint32_t expert, double when);

  // A byte per expert of the layer: 1 if it is cached, else 0.
  const uint8_t* cached(uint32_t layer) const { return pool(layer).cached() + base(layer); }
  uint32_t size() const;
  const LogicalCacheOptions& options() const { return options_; }
  // Each pool's experts, least recent first.
  std::vector<ExpertKey> by_recency() const;
  // As after construction: eviction's memory of past uses is cleared, too.
  void clear();
  // Then holds as many of the experts given for each layer (best first) as fit; the best become the
  // most recent. A shared pool takes the best of every layer before the second best of any.
  void fill(Span<const std::vector<uint32_t>> best);

 private:
  const ExpertPool& pool(uint32_t layer) const { return pools_[options_.global ? 0 : layer]; }
  ExpertPool& pool(uint32_t layer) { return pools_[options_.global ? 0 : layer]; }
  uint32_t base(uint32_t layer) const { return options_.global ? layer * options_.experts : 0; }
  // The expert with this number in its pool; `layer` is its layer if each layer has a pool.
  ExpertKey key(uint32_t layer, uint32_t expert) const;

  LogicalCacheOptions options_;
  std::vector<ExpertPool> pools_;
  std::vector<uint32_t> chosen_;  // by their numbers in the pool
  std::vector<ExpertKey> evicted_;
};

}  // namespace moe_mobile
