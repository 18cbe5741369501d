// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "engine/prefill_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>

namespace moe_mobile {
namespace {

using Keys = std::vector<ExpertKey>;

// Experts of one layer.
Keys keys(uint32_t layer, const std::vector<uint32_t>& experts) {
  Keys result;
  for (const uint32_t expert : experts) result.push_back({layer, expert});
  return result;
}

Keys operator+(Keys a, const Keys& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

TEST(PrefillPlan, GivesNothingUpWhileThereIsRoom) {
  PrefillPlan plan(8, 2);
  plan.begin(keys(0, {5}));
  for (const bool last : {false, true}) {
    const PrefillPlan::Batch batch = plan.next(keys(0, {0, 1}), last);
    EXPECT_EQ(batch.given_up, Keys());
    EXPECT_EQ(batch.passing, 0u);
  }
}

TEST(PrefillPlan, GivesUpPassedThenStaleThenKept) {
  // Two layers share six places: each keeps three.
  PrefillPlan plan(6, 2);
  plan.begin(keys(1, {8, 9}));
  EXPECT_EQ(plan.next(keys(0, {0, 1, 2, 3}), true).given_up, Keys());
  // Now: 0 passed, 8 and 9 of layer 1 stale, 1 to 3 kept. All six places are taken.
  EXPECT_EQ(plan.next(keys(1, {0}), false).given_up, keys(0, {0}));
  EXPECT_EQ(plan.next(keys(1, {1, 2}), false).given_up, keys(1, {8, 9}));
  EXPECT_EQ(plan.next(keys(1, {3}), false).given_up, keys(0, {1}));
  // Experts that earlier batches of the same layer used leave last.
  EXPECT_EQ(plan.next(keys(1, {4, 5, 6}), false).given_up, keys(0, {2, 3}) + keys(1, {0}));
}

TEST(PrefillPlan, ExpertsOfTheBatchAreNeverGivenUp) {
  PrefillPlan plan(4, 1);
  plan.begin(keys(0, {0, 1, 2, 3}));
  const PrefillPlan::Batch batch = plan.next(keys(0, {0, 4}), false);
  EXPECT_EQ(batch.given_up, keys(0, {1}));
  EXPECT_EQ(batch.passing, 0u);
}

TEST(PrefillPlan, ALayerKeepsItsShareOfTheMostRecent) {
  PrefillPlan plan(8, 4);  // two each
  plan.begin({});
  plan.next(keys(0, {0, 1, 2}), false);
  plan.next(keys(0, {3}), true);  // keeps expert 3, and expert 2 of the batch before
  plan.next(keys(1, {0, 1, 2, 3}), true);
  // 0 and 1 of layer 0, then 0 and 1 of layer 1 passed.
  EXPECT_EQ(plan.next(keys(2, {0, 1, 2, 3}), true).given_up, keys(0, {0, 1}) + keys(1, {0, 1}));
}

TEST(PrefillPlan, ExpertsOfABatchThatIsTooLargePassThrough) {
  PrefillPlan plan(4, 1);
  plan.begin({});
  // One place stays free for reading; the most recent three stay.
  const PrefillPlan::Batch batch = plan.next(keys(0, {0, 1, 2, 3, 4, 5}), true);
  EXPECT_EQ(batch.passing, 2u);
  EXPECT_EQ(plan.next(keys(0, {6}), true).given_up, keys(0, {2}));
}

TEST(PrefillPlan, VariantsOfOneExpertAreDifferent) {
  PrefillPlan plan(2, 1);
  plan.begin(Keys{{0, 0, 0}, {0, 0, 1}});
  EXPECT_EQ(plan.next(Keys{{0, 0, 1}, {0, 1, 0}}, true).given_up, (Keys{{0, 0, 0}}));
}

// Follows any plan as the stream does, and checks its guarantees.
TEST(PrefillPlan, AnyPlanCanBeFollowed) {
  for (uint32_t seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    const uint32_t layers = 1 + random() % 4, experts = 1 + random() % 20;
    const size_t places = 1 + random() % (layers * experts + 4);
    PrefillPlan plan(places, layers);
    std::set<ExpertKey> memory;
    Keys before;
    while (before.size() < places && random() % 8 != 0) {
      const ExpertKey key{static_cast<uint32_t>(random() % layers),
                          static_cast<uint32_t>(random() % experts)};
      if (memory.insert(key).second) before.push_back(key);
    }
    plan.begin(before);
    for (uint32_t layer = 0; layer < layers; ++layer) {
      std::map<ExpertKey, int> reads;
      const int batches = 1 + static_cast<int>(random() % 4);
      for (int i = 0; i < batches; ++i) {
        std::vector<uint32_t> used(experts);
        for (uint32_t e = 0; e < experts; ++e) used[e] = e;
        std::shuffle(used.begin(), used.end(), random);
        used.resize(1 + random() % experts);
        const Keys batch = keys(layer, used);
        const bool last = i + 1 == batches;
        const PrefillPlan::Batch out = plan.next(batch, last);
        for (const ExpertKey& key : out.given_up) {
          ASSERT_EQ(memory.erase(key), 1u) << "was not there";
          ASSERT_EQ(std::count(batch.begin(), batch.end(), key), 0) << "is used now";
        }
        // First the experts in memory run, then the others come in, as far as there is room.
        std::vector<size_t> order;
        for (const size_t here : {1, 0})
          for (size_t job = 0; job < batch.size(); ++job)
            if (memory.count(batch[job]) == here) order.push_back(job);
        for (const size_t job : order) {
          if (memory.insert(batch[job]).second) ++reads[batch[job]];
          ASSERT_LE(memory.size(), places);
          if (job < out.passing) memory.erase(batch[job]);
        }
        // The most recent experts of the batch are in memory, as many as may stay.
        for (size_t job = out.passing; job < batch.size(); ++job)
          ASSERT_EQ(memory.count(batch[job]), 1u);
      }
      for (const auto& [key, count] : reads)
        ASSERT_LE(count, places >= experts ? 1 : count) << "read twice in one layer";
    }
  }
}

TEST(PrefillPlan, FewerPlacesGiveUpPassedThenStaleThenKept) {
  PrefillPlan plan(6, 2);
  plan.begin(keys(1, {8, 9}));
  plan.next(keys(0, {0, 1, 2, 3}), true);  // 0 passed, 8 and 9 of layer 1 stale, 1 to 3 kept
  EXPECT_EQ(plan.resize(3), keys(0, {0}) + keys(1, {8, 9}));
  EXPECT_EQ(plan.resize(3), Keys());
  EXPECT_EQ(plan.next(keys(1, {0}), false).given_up, keys(0, {1}));
  EXPECT_EQ(plan.resize(1), keys(0, {2, 3}));
  EXPECT_EQ(plan.resize(6), Keys());
  EXPECT_EQ(plan.next(keys(1, {1, 2, 3, 4}), true).given_up, Keys());
}

}  // namespace
}  // namespace moe_mobile
