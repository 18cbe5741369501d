// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "cache/logical_cache.h"

#include <gtest/gtest.h>

#include <numeric>
#include <random>

#include "base/expect_error.h"
#include "cache/naive_cache.h"

namespace moe_mobile {
namespace {

using testing::NaiveCache;
using Keys = std::vector<ExpertKey>;
using Experts = std::vector<uint32_t>;

LogicalCacheOptions options(uint32_t layers, uint32_t experts, bool global, uint32_t capacity) {
  LogicalCacheOptions options;
  options.layers = layers;
  options.experts = experts;
  options.global = global;
  options.capacity = capacity;
  return options;
}

// One naive cache per layer, or one for all.
TEST(LogicalCache, EqualsTheNaiveModel) {
  std::mt19937 random(21);
  for (int round = 0; round < 80; ++round) {
    const bool global = round % 2 == 0;
    const uint32_t layers = 1 + random() % 4, experts = 1 + random() % 12;
    const uint32_t all = global ? layers * experts : experts;
    const uint32_t capacity = 1 + random() % all;
    LogicalCache cache(options(layers, experts, global, capacity));
    std::vector<NaiveCache> naive(global ? 1 : layers, NaiveCache(capacity));
    Experts order(experts);
    std::iota(order.begin(), order.end(), 0u);
    for (uint32_t step = 0; step < 200; ++step) {
      const uint32_t layer = step % layers;
      NaiveCache& expected = naive[global ? 0 : layer];
      std::shuffle(order.begin(), order.end(), random);
      const Experts chosen(order.begin(),
                           order.begin() + random() % (std::min(experts, capacity) + 1));
      Keys keys;
      for (const uint32_t expert : chosen) keys.push_back({layer, expert});
      const NaiveCache::Outcome outcome = expected.access(keys);
      std::vector<uint8_t> uncached(chosen.size());
      const Span<const ExpertKey> evicted = cache.access(layer, chosen, uncached.data());
      ASSERT_EQ(Keys(evicted.begin(), evicted.end()), outcome.evicted);
      for (size_t rank = 0; rank < chosen.size(); ++rank) {
        ASSERT_NE(uncached[rank] != 0, outcome.hit[rank]);
        ASSERT_EQ(cache.cached(layer)[chosen[rank]], 1);
      }
      Keys held;
      for (const NaiveCache& one : naive) {
        const Keys part = one.by_recency();
        held.insert(held.end(), part.begin(), part.end());
      }
      ASSERT_EQ(cache.by_recency(), held);
      ASSERT_EQ(cache.size(), held.size());
    }
    cache.clear();
    ASSERT_EQ(cache.size(), 0u);
    ASSERT_TRUE(cache.by_recency().empty());
  }
}

// The same experts for every token, layer after layer.
uint32_t hits_of_a_fixed_cycle(bool global, uint32_t capacity) {
  LogicalCache cache(options(4, 2, global, capacity));
  uint32_t hits = 0;
  for (int token = 0; token < 10; ++token)
    for (uint32_t layer = 0; layer < 4; ++layer) {
      uint8_t uncached[2];
      cache.access(layer, Experts{0, 1}, uncached);
      hits += 2 - uncached[0] - uncached[1];
    }
  return hits;
}

TEST(LogicalCache, OnlyAGlobalPoolNeedsATokenCycleToHit) {
  EXPECT_EQ(hits_of_a_fixed_cycle(true, 8), 9u * 8u);
  // One slot too few: a layer's better expert survives the cycle, because only the lowest rank is
  // the oldest.
  EXPECT_EQ(hits_of_a_fixed_cycle(true, 7), 9u * 4u);
  EXPECT_EQ(hits_of_a_fixed_cycle(true, 6), 0u);
  EXPECT_EQ(hits_of_a_fixed_cycle(false, 2), 9u * 8u);
}

TEST(LogicalCache, RefusesInvalidPoolSizesAndUses) {
  EXPECT_ERROR(LogicalCache(options(2, 3, false, 4)), ErrorCode::kUsage, "4 of 3");
  EXPECT_ERROR(LogicalCache(options(2, 3, true, 7)), ErrorCode::kUsage, "7 of 6");
  LogicalCache cache(options(2, 3, true, 2));
  uint8_t uncached[3];
  EXPECT_ERROR(cache.access(1, Experts{0, 1, 2}, uncached), ErrorCode::kBudget, "holds 2");
}

}  // namespace
}  // namespace moe_mobile
