// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include <thread>

#include "engine/expert_stream_bench.h"

// Cached experts that come in the background: fill().
namespace moe_mobile::testing {
namespace {

using Keys = std::vector<ExpertKey>;
using Best = std::vector<std::vector<uint32_t>>;

const Best kAll(kLayers, std::vector<uint32_t>{0, 1, 2, 3, 4, 5});

bool is_ready(StreamBench* bench, const ExpertKey& key) {
  for (const Slot& slot : bench->stream().residency(0))
    if (slot.state == SlotState::kReady && slot.key == key) return true;
  return false;
}

bool holds(const StreamBench& bench, const ExpertKey& key) {
  const Keys keys = bench.cache().by_recency();
  return std::find(keys.begin(), keys.end(), key) != keys.end();
}

TEST(Fill, HitsAreTheCachesWheneverItsExpertsArrive) {
  for (uint32_t seed = 0; seed < 80; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    const bool global = random() % 2 == 0, predicts = random() % 2 == 0;
    const uint32_t most = kExperts * (global ? kLayers : 1);
    StreamBench bench(kTopK + random() % (most - kTopK + 1), 1 + random() % 3, random() % 2 == 0,
                      global, random() % 3, (1 + random() % 4) * kBlobAlignment);
    for (int round = 0; round < 3; ++round) {
      Best best = kAll;
      for (std::vector<uint32_t>& layer : best) {
        std::shuffle(layer.begin(), layer.end(), random);
        layer.resize(random() % (kExperts + 1));
      }
      bench.fill_in_background(best);
      for (int step = 0; step < 12; ++step) {
        const auto layer = static_cast<uint32_t>(random() % kLayers);
        const auto first = static_cast<uint32_t>(random() % kExperts);
        const auto second = static_cast<uint32_t>((first + 1 + random() % 5) % kExperts);
        const std::vector<uint32_t> chosen = {first, second};
        uint32_t expected = 0;
        for (const uint32_t expert : chosen) expected += holds(bench, {layer, expert});
        const uint32_t before = bench.hits();
        bench.run_jobs(layer, chosen);
        // A predicted expert is a hit too, if it has arrived.
        if (predicts)
          EXPECT_GE(bench.hits() - before, expected);
        else
          EXPECT_EQ(bench.hits() - before, expected);
        const ExpertKey other{static_cast<uint32_t>(random() % kLayers), first};
        if (predicts && random() % 2 == 0) bench.stream().prefetch(Keys{other});
        if (predicts && random() % 4 == 0) bench.stream().withdraw(Keys{other});
        if (random() % 8 == 0) bench.resize(kTopK + random() % (most - kTopK + 1));
      }
    }
    bench.end_prompt();  // what has not come is read when a token demands it
    bench.decode_every_expert();
  }
}

TEST(Fill, AllCachedExpertsComeWhileTokensAreDecoded) {
  StreamBench bench(kLayers * kExperts, 2);
  bench.fill_in_background(kAll);
  const auto missing = [&] {
    const Keys keys = bench.cache().by_recency();
    return std::any_of(keys.begin(), keys.end(),
                       [&](const ExpertKey& key) { return !is_ready(&bench, key); });
  };
  while (missing()) {
    bench.run_jobs(0, {0, 1});
    std::this_thread::yield();
  }
  EXPECT_EQ(bench.misses(), 0u);
  EXPECT_EQ(bench.places().requested().size(), kLayers * kExperts);  // each once
  bench.expect_slots(SlotState::kReady);
}

TEST(Fill, TheMostRecentComesFirst) {
  StreamBench bench(6, 1);
  bench.fill_in_background({{5, 0}, {1}, {}});
  Keys recent = bench.cache().by_recency();
  std::reverse(recent.begin(), recent.end());
  EXPECT_EQ(bench.places().requested(), recent);
}

TEST(Fill, AnExpertThatLeavesBeforeItsReadBeganIsNotRead) {
  StreamBench bench(10, 1);  // one lane has eight reads waiting, so two have none
  bench.fill_in_background(kAll);
  const Keys cached = bench.cache().by_recency();
  ASSERT_EQ(bench.places().requested().size(), 8u);
  ASSERT_FALSE(holds(bench, {2, 4}) || holds(bench, {2, 5}));
  bench.run_jobs(2, {4, 5});
  EXPECT_EQ(bench.misses(), 2u);
  for (const ExpertKey& left : {cached[0], cached[1]}) {
    const Keys& requested = bench.places().requested();
    EXPECT_EQ(std::count(requested.begin(), requested.end(), left), 0);
  }
}

TEST(Fill, WhatCannotBeReadIsNoErrorBeforeATokenDemandsIt) {
  StreamBench bench(4, 2);
  bench.run_jobs(0, {0, 1});
  bench.truncate(100);
  bench.fill_in_background({{0, 1, 2, 3}, {}, {}});
  for (int token = 0; token < 20; ++token) bench.run_jobs(0, {0, 1});
  EXPECT_ERROR(bench.run_jobs(0, {2, 3}), ErrorCode::kBundleCorrupt, bench.path());
  bench.write_experts();
  bench.run_jobs(0, {2, 3});
  // The same if a place fails.
  for (const FakePlaces::Step step : {FakePlaces::Step::kReadRequest, FakePlaces::Step::kArrived}) {
    bench.stream().retain({});
    bench.places().fail_in(step, 1);
    bench.fill_in_background({{0, 1, 2, 3}, {}, {}});
    while (bench.places().armed()) bench.stream().prefetch({});
    bench.run_jobs(0, {0, 1});
    bench.run_jobs(0, {2, 3});
  }
}

TEST(Fill, APromptEndsIt) {
  StreamBench bench(kLayers * kExperts, 1);
  bench.fill_in_background(kAll);
  bench.begin_prompt();
  const size_t requested = bench.places().requested().size();
  EXPECT_LT(requested, kLayers * kExperts);
  for (const Slot& slot : bench.stream().residency(0)) EXPECT_NE(slot.state, SlotState::kReading);
  bench.end_prompt();
  const ExpertKey first = bench.places().requested()[0];
  bench.run_jobs(first.layer, {first.expert});
  EXPECT_EQ(bench.places().requested().size(), requested);
}

}  // namespace
}  // namespace moe_mobile::testing
