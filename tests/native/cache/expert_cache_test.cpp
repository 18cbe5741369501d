// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "cache/expert_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <list>
#include <random>
#include <set>

#include "base/expect_error.h"

namespace moe_mobile {
namespace {

using Keys = std::vector<ExpertKey>;

ExpertKey key(uint32_t layer, uint32_t expert) { return {layer, expert, 0}; }

TEST(ExpertKey, PacksItsLimitsWithoutCollision) {
  const uint32_t values[] = {0, 1, 65535};
  std::set<uint64_t> packed;
  for (uint32_t layer : values) {
    for (uint32_t expert : values) {
      for (uint32_t variant : values) packed.insert(ExpertKey{layer, expert, variant}.packed());
    }
  }
  EXPECT_EQ(packed.size(), 27u);
  EXPECT_TRUE(key(1, 2) == key(1, 2));
  EXPECT_TRUE(key(1, 2) != (ExpertKey{1, 2, 1}));
  EXPECT_TRUE(key(1, 9) < key(2, 0));
}

TEST(ExpertCache, TouchesLowestRankFirst) {
  ExpertCache cache(4);
  const auto first = cache.access(Keys{key(0, 7), key(0, 3)});
  EXPECT_EQ(first.hit, (std::vector<bool>{false, false}));
  EXPECT_TRUE(first.evicted.empty());
  EXPECT_EQ(cache.by_recency(), (Keys{key(0, 3), key(0, 7)}));
  const auto second = cache.access(Keys{key(0, 3), key(0, 1)});
  EXPECT_EQ(second.hit, (std::vector<bool>{true, false}));
  EXPECT_EQ(cache.by_recency(), (Keys{key(0, 7), key(0, 1), key(0, 3)}));
}

TEST(ExpertCache, ChosenExpertsNeverEvictEachOther) {
  ExpertCache cache(3);
  cache.access(Keys{key(0, 0)});
  cache.access(Keys{key(1, 0)});
  cache.access(Keys{key(2, 0)});
  // The hit is the least recent entry of all: the two others go.
  const auto outcome = cache.access(Keys{key(0, 1), key(0, 2), key(0, 0)});
  EXPECT_EQ(outcome.hit, (std::vector<bool>{false, false, true}));
  EXPECT_EQ(outcome.evicted, (Keys{key(1, 0), key(2, 0)}));
  EXPECT_EQ(cache.by_recency(), (Keys{key(0, 0), key(0, 2), key(0, 1)}));
}

TEST(ExpertCache, RefusesMoreThanItHoldsAndStaysAsItWas) {
  ExpertCache cache(2);
  cache.access(Keys{key(0, 0), key(0, 1)});
  EXPECT_ERROR(cache.access(Keys{key(1, 0), key(1, 1), key(1, 2)}), ErrorCode::kBudget, "holds 2");
  EXPECT_EQ(cache.by_recency(), (Keys{key(0, 1), key(0, 0)}));
  EXPECT_ERROR(cache.access(Keys{key(1, 0), key(1, 0)}), ErrorCode::kUsage, "twice");
  EXPECT_ERROR(cache.access(Keys{key(0, 0), key(0, 0)}), ErrorCode::kUsage, "twice");
  EXPECT_EQ(cache.by_recency(), (Keys{key(0, 1), key(0, 0)}));
  ExpertCache none(0);
  EXPECT_TRUE(none.access(Keys{}).hit.empty());
  EXPECT_ERROR(none.access(Keys{key(0, 0)}), ErrorCode::kBudget, "holds 0");
}

// The same experts for every token, layer after layer.
size_t hits_of_a_fixed_cycle(size_t capacity, uint32_t layers, int tokens) {
  ExpertCache cache(capacity);
  size_t hits = 0;
  for (int token = 0; token < tokens; ++token) {
    for (uint32_t layer = 0; layer < layers; ++layer) {
      for (const bool hit : cache.access(Keys{key(layer, 0), key(layer, 1)}).hit) hits += hit;
    }
  }
  return hits;
}

TEST(ExpertCache, NeedsATokenCycleToHit) {
  EXPECT_EQ(hits_of_a_fixed_cycle(8, 4, 10), 9u * 8u);
  // One short: a layer's better expert outlives the cycle, because only the lowest rank is oldest.
  EXPECT_EQ(hits_of_a_fixed_cycle(7, 4, 10), 9u * 4u);
  EXPECT_EQ(hits_of_a_fixed_cycle(6, 4, 10), 0u);
}

// The rules again, with the plainest data structure.
class NaiveCache {
 public:
  explicit NaiveCache(size_t capacity) : capacity_(capacity) {}

  ExpertCache::Outcome access(const Keys& chosen) {
    ExpertCache::Outcome outcome;
    size_t misses = 0;
    for (const ExpertKey& k : chosen) {
      const bool hit = std::find(order_.begin(), order_.end(), k) != order_.end();
      outcome.hit.push_back(hit);
      misses += !hit;
    }
    auto at = order_.begin();
    while (order_.size() + misses > capacity_) {
      if (std::find(chosen.begin(), chosen.end(), *at) != chosen.end()) {
        ++at;
        continue;
      }
      outcome.evicted.push_back(*at);
      at = order_.erase(at);
    }
    for (auto k = chosen.rbegin(); k != chosen.rend(); ++k) {
      order_.remove(*k);
      order_.push_back(*k);
    }
    return outcome;
  }

  Keys by_recency() const { return Keys(order_.begin(), order_.end()); }

 private:
  size_t capacity_;
  std::list<ExpertKey> order_;
};

TEST(ExpertCache, EqualsTheNaiveModel) {
  std::mt19937 random(21);
  for (int round = 0; round < 60; ++round) {
    const size_t capacity = 1 + random() % 24;
    const uint32_t layers = 1 + random() % 4, experts = 1 + random() % 12;
    ExpertCache cache(capacity);
    NaiveCache naive(capacity);
    ExpertCache::Outcome outcome;
    for (int step = 0; step < 200; ++step) {
      const uint32_t layer = static_cast<uint32_t>(step) % layers;
      Keys all;
      for (uint32_t e = 0; e < experts; ++e)
        all.push_back({layer, e, static_cast<uint32_t>(random() % 2)});
      std::shuffle(all.begin(), all.end(), random);
      all.resize(random() % (std::min<size_t>(experts, capacity) + 1));
      const auto expected = naive.access(all);
      cache.access(all, &outcome);
      ASSERT_EQ(outcome.hit, expected.hit);
      ASSERT_EQ(outcome.evicted, expected.evicted);
      ASSERT_EQ(cache.by_recency(), naive.by_recency());
      ASSERT_EQ(cache.size(), naive.by_recency().size());
      ASSERT_LE(cache.size(), capacity);
      for (const ExpertKey& k : all) ASSERT_TRUE(cache.contains(k));
      for (const ExpertKey& k : outcome.evicted) ASSERT_FALSE(cache.contains(k));
    }
    cache.clear();
    ASSERT_EQ(cache.size(), 0u);
    ASSERT_TRUE(cache.by_recency().empty());
  }
}

}  // namespace
}  // namespace moe_mobile
