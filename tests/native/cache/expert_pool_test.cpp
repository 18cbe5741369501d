// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "cache/expert_pool.h"

#include <gtest/gtest.h>

#include "base/expect_error.h"

namespace moe_mobile {
namespace {

using Experts = std::vector<uint32_t>;
using Mask = std::vector<uint8_t>;

class TestedPool : public ExpertPool {
 public:
  TestedPool(uint32_t experts, uint32_t capacity, const char* eviction)
      : ExpertPool(experts, capacity, parse_eviction(eviction)) {}

  Mask use(const Experts& chosen) {
    Mask uncached(chosen.size());
    const Span<const uint32_t> out = access(chosen, uncached.data());
    evicted.assign(out.begin(), out.end());
    return uncached;
  }

  Experts evicted;
};

TEST(ExpertPool, EvictsTheLeastRecentlyUsed) {
  TestedPool pool(6, 3, "lru");
  EXPECT_EQ(pool.use({0, 1}), (Mask{1, 1}));
  EXPECT_EQ(pool.use({2, 0}), (Mask{1, 0}));
  EXPECT_EQ(pool.by_recency(), (Experts{1, 0, 2}));
  EXPECT_EQ(pool.use({3}), (Mask{1}));
  EXPECT_EQ(pool.evicted, (Experts{1}));
  EXPECT_EQ(Mask(pool.cached(), pool.cached() + 6), (Mask{1, 0, 1, 1, 0, 0}));
  EXPECT_EQ(pool.size(), 3u);
}

TEST(ExpertPool, LfuEvictsTheOneUsedLeast) {
  TestedPool pool(6, 2, "lfu:1");
  pool.use({0});
  pool.use({0});
  pool.use({1});
  pool.use({2});
  EXPECT_EQ(pool.evicted, (Experts{1}));
  // Eviction keeps the counter of expert 1. With another use it equals that of expert 0, which is
  // older.
  pool.use({1});
  EXPECT_EQ(pool.evicted, (Experts{2}));
  pool.use({3});
  EXPECT_EQ(pool.evicted, (Experts{0}));
}

TEST(ExpertPool, LfuForgetsWithItsDecay) {
  TestedPool pool(6, 2, "lfu:0.5");
  pool.use({0});
  pool.use({0});  // 1.5
  pool.use({1});  // 0.75 and 1
  pool.use({2});
  EXPECT_EQ(pool.evicted, (Experts{0}));
}

TEST(ExpertPool, BeladyEvictsTheOneUsedLast) {
  TestedPool pool(6, 3, "belady");
  pool.set_next_use(0, 9);
  pool.set_next_use(1, 20);
  pool.set_next_use(2, 20);
  pool.use({0, 1, 2});
  pool.set_next_use(3, 4);
  pool.use({3});
  EXPECT_EQ(pool.evicted, (Experts{2}));  // used as late as 1, and less recent
}

TEST(ExpertPool, RefusesInvalidUses) {
  EXPECT_ERROR(TestedPool(3, 4, "lru"), ErrorCode::kUsage, "4 of 3");
  TestedPool pool(4, 2, "lru");
  pool.use({0, 1});
  EXPECT_ERROR(pool.use({0, 1, 2}), ErrorCode::kBudget, "holds 2");
  EXPECT_ERROR(pool.use({2, 2}), ErrorCode::kUsage, "twice");
  EXPECT_ERROR(pool.use({4}), ErrorCode::kUsage, "does not exist");
  EXPECT_EQ(pool.by_recency(), (Experts{1, 0}));
}

TEST(Eviction, IsParsed) {
  EXPECT_EQ(parse_eviction("lru").kind, EvictionOptions::Kind::kLru);
  EXPECT_EQ(parse_eviction("belady").kind, EvictionOptions::Kind::kBelady);
  EXPECT_EQ(parse_eviction("lfu").decay, 0.99);
  EXPECT_EQ(parse_eviction("lfu:0.5").decay, 0.5);
  for (const char* text : {"", "fifo", "lfu:", "lfu:1.5", "lfu:-1", "lru:1"})
    EXPECT_ERROR(parse_eviction(text), ErrorCode::kUsage, "lfu:DECAY");
}

}  // namespace
}  // namespace moe_mobile
