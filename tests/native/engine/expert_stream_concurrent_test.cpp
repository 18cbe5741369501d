// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "engine/expert_stream_bench.h"

namespace moe_mobile::testing {
namespace {

using Keys = std::vector<ExpertKey>;

TEST(ExpertStream, AnySequenceGivesTheOutputsAndTheCacheOfTokenByTokenRouting) {
  for (uint32_t seed = 0; seed < 60; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    const bool global = seed % 3 != 0;
    const uint32_t most = global ? kLayers * kExperts : kExperts;
    const uint32_t places = kTopK + random() % (most - kTopK + 1);
    StreamBench bench(places, 1 + random() % 3, random() % 2 == 0, global);
    for (int step = 0; step < 12; ++step) {
      if (random() % 3 == 0) {
        const uint32_t tokens = 1 + random() % 9;
        bench.prefill(&random, tokens, 1 + random() % 5);
      } else {
        bench.decode(&random);
      }
    }
  }
}

TEST(ExpertStream, APromptOfManyBatchesReadsNoExpertTwiceIfALayersExpertsFit) {
  for (uint32_t places = kExperts; places <= kLayers * kExperts; ++places)
    for (uint32_t seed = 0; seed < 10; ++seed) {
      SCOPED_TRACE(std::to_string(places) + " places, seed " + std::to_string(seed));
      std::mt19937 random(seed);
      StreamBench bench(places, 1 + seed % 3);
      bench.prefill(&random, 40, 1 + seed);
      EXPECT_LE(bench.misses(), kLayers * kExperts);
    }
}

TEST(ExpertStream, AReadErrorLeavesItUsable) {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    StreamBench bench(5, 2, seed % 2 == 0);
    bench.decode(&random);
    bench.truncate(100);
    // More experts than places: some must be read.
    const auto use_most = [&] {
      if (seed % 3 == 0) bench.begin_prompt();
      for (uint32_t expert = 0; expert + 1 < kExperts; ++expert)
        bench.run_jobs(seed % kLayers, {expert, expert + 1}, 1,
                       seed % 3 == 0 ? Phase::kLastBatch : Phase::kDecode);
    };
    EXPECT_ERROR(use_most(), ErrorCode::kBundleCorrupt, bench.path());
    bench.end_prompt();
    bench.write_experts();
    bench.decode_every_expert();
  }
}

TEST(ExpertStream, AFailingPlaceLeavesItUsable) {
  using Step = FakePlaces::Step;
  for (const Step step : {Step::kReadRequest, Step::kArrived, Step::kRun})
    for (uint32_t seed = 0; seed < 24; ++seed) {
      SCOPED_TRACE("step " + std::to_string(static_cast<int>(step)) + ", seed " +
                   std::to_string(seed));
      std::mt19937 random(seed);
      const bool prefill = seed % 2 == 0;
      const Phase phase = !prefill        ? Phase::kDecode
                          : seed % 4 == 0 ? Phase::kBatch
                                          : Phase::kLastBatch;
      StreamBench bench(5, 1 + seed % 3, seed % 4 < 2);
      bench.decode(&random);
      bench.places().fail_in(step, random() % 4);
      // More experts than places, so that reads are under way when it fails.
      const auto use_all = [&] {
        if (prefill) bench.begin_prompt();
        for (uint32_t layer = 0; layer < kLayers; ++layer)
          for (uint32_t expert = 0; expert < kExperts; expert += 3)
            bench.run_jobs(layer, {expert, expert + 1, expert + 2}, 1, phase);
      };
      EXPECT_ERROR(use_all(), ErrorCode::kRuntime, "told to fail");
      EXPECT_FALSE(bench.places().armed());
      if (prefill) bench.end_prompt();
      // Each expert still computes the right output: no place claims an expert that did not arrive,
      // and no read from before the failure is mistaken for a later one.
      use_all();
      if (prefill) bench.end_prompt();
      bench.decode_every_expert();
    }
}

TEST(ExpertStream, FillsWithTheBestThatFit) {
  const std::vector<std::vector<uint32_t>> best = {{4, 1, 0}, {}, {2, 3}};
  StreamBench shared(4, 2);
  shared.fill(best);
  EXPECT_EQ(shared.cache().by_recency(), (Keys{{2, 3}, {0, 1}, {2, 2}, {0, 4}}));
  StreamBench divided(2, 2, true, /*global=*/false);
  std::mt19937 random(5);
  divided.decode(&random);
  uint64_t loaded = 0;
  divided.fill(best, [&](const char*, uint64_t done, uint64_t) { loaded = done; });
  EXPECT_LE(loaded, 4u);  // some were in memory
  EXPECT_EQ(divided.cache().by_recency(), (Keys{{0, 1}, {0, 4}, {2, 3}, {2, 2}}));
  for (StreamBench* bench : {&shared, &divided}) {
    bench->truncate(0);  // nothing is read any more
    bench->run_jobs(0, {4, 1});
    bench->run_jobs(2, {3, 2});
  }
}

TEST(ExpertStream, HoldsAllThatFits) {
  const std::vector<std::vector<uint32_t>> all(kLayers, std::vector<uint32_t>{0, 1, 2, 3, 4, 5});
  StreamBench bench(kLayers * kExperts, 2);
  bench.truncate(100);
  EXPECT_ERROR(bench.fill(all), ErrorCode::kBundleCorrupt, bench.path());
  bench.write_experts();  // the failure left it usable
  for (uint32_t layer = 0; layer < kLayers; ++layer) bench.run_jobs(layer, {0, 5});
  uint64_t steps = 0;
  bench.stream().retain({});
  bench.fill(all, [&](const char*, uint64_t done, uint64_t) { steps = done; });
  EXPECT_EQ(steps, kLayers * kExperts);
  bench.truncate(0);  // nothing is read any more
  for (uint32_t layer = 0; layer < kLayers; ++layer) bench.run_jobs(layer, {0, 5});
  bench.expect_slots(SlotState::kReady);
  bench.stream().retain({});
  bench.expect_slots(SlotState::kFree);
}

}  // namespace
}  // namespace moe_mobile::testing
