// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include <atomic>
#include <thread>

#include "engine/call_gate.h"
#include "engine/expert_stream_bench.h"

// Resizing a stream, and what other threads see of it.
namespace moe_mobile::testing {
namespace {

// Other threads see the same as the table.
void expect_shown(StreamBench* bench) {
  const ResidencySnapshot shown = bench->map().snapshot();
  std::vector<ExpertState> expected(kLayers * kExperts, ExpertState::kAbsent);
  for (const Slot& slot : bench->stream().residency(0))
    if (slot.state != SlotState::kFree)
      expected[slot.key.layer * kExperts + slot.key.expert] =
          slot.state == SlotState::kReady ? ExpertState::kReady : ExpertState::kOnItsWay;
  EXPECT_EQ(shown.states, expected);
  uint64_t hits = 0, misses = 0;
  for (const uint64_t count : shown.hits) hits += count;
  for (const uint64_t count : shown.misses) misses += count;
  EXPECT_EQ(hits, bench->hits());
  EXPECT_EQ(misses, bench->misses());
}

TEST(StreamResize, AnyResizesGiveTheOutputsAndTheCacheOfTokenByTokenRouting) {
  for (uint32_t seed = 0; seed < 60; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    const bool global = seed % 3 != 0;
    const uint32_t most = global ? kLayers * kExperts : kExperts;
    const auto any = [&] { return kTopK + static_cast<uint32_t>(random() % (most - kTopK + 1)); };
    StreamBench bench(any(), 1 + random() % 3, random() % 2 == 0, global, seed % 2);
    for (int step = 0; step < 40; ++step) {
      const uint32_t capacity = any();
      bench.resize(capacity);
      // From now on the places that keep memory are within the new limit.
      const uint32_t limit = capacity * (global ? 1 : kLayers) + seed % 2;
      EXPECT_LE(bench.places().count() - bench.places().given_back(), limit);
      if (random() % 5 == 0) bench.stream().prefetch(std::vector<ExpertKey>{{1, 2}, {2, 2}});
      if (random() % 4 == 0) {
        bench.prefill(&random, 1 + random() % 9, 1 + random() % 5);
      } else {
        bench.decode_one(&random, random() % kLayers);
      }
      EXPECT_LE(bench.places().count() - bench.places().given_back(), limit);
    }
    bench.end_prompt();
    bench.decode(&random);
    expect_shown(&bench);
  }
}

TEST(StreamResize, ShrinkingGivesMemoryBackAtOnceAndGrowingTakesItLater) {
  StreamBench bench(12, 2);
  bench.fill(std::vector<std::vector<uint32_t>>(kLayers, {0, 1, 2, 3}));
  bench.resize(5);
  EXPECT_EQ(bench.places().given_back(), 7u);
  EXPECT_EQ(bench.cache().size(), 5u);
  expect_shown(&bench);
  bench.resize(18);
  EXPECT_EQ(bench.places().given_back(), 7u);  // until they are used
  EXPECT_EQ(bench.places().count(), 12u);
  bench.fill(std::vector<std::vector<uint32_t>>(kLayers, {0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(bench.places().given_back(), 0u);
  EXPECT_EQ(bench.places().count(), 18u);
  expect_shown(&bench);
}

TEST(StreamResize, APlaceThatCannotBeAddedLeavesItUsable) {
  StreamBench bench(2, 2);
  bench.run_jobs(0, {0, 1});
  bench.resize(4);
  bench.places().fail_in(FakePlaces::Step::kAdd, 0);
  EXPECT_ERROR(bench.run_jobs(1, {0, 1}), ErrorCode::kRuntime, "told to fail");
  bench.run_jobs(1, {0, 1});
  bench.run_jobs(0, {0, 1});
  EXPECT_EQ(bench.places().count(), 4u);

  // The place that was not added cannot be given back.
  bench.resize(8);
  bench.places().fail_in(FakePlaces::Step::kAdd, 0);
  EXPECT_ERROR(bench.run_jobs(0, {2, 3}), ErrorCode::kRuntime, "told to fail");
  bench.resize(2);
  bench.run_jobs(0, {2, 3});
}

TEST(StreamResize, APromptContinuesWithFewerAndMorePlaces) {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    std::mt19937 random(seed);
    StreamBench bench(8, 2);
    bench.begin_prompt();
    for (uint32_t layer = 0; layer < kLayers; ++layer)
      for (const Phase phase : {Phase::kBatch, Phase::kBatch, Phase::kLastBatch}) {
        std::vector<uint32_t> experts = {0, 1, 2, 3, 4, 5};
        std::shuffle(experts.begin(), experts.end(), random);
        experts.resize(1 + random() % kExperts);
        bench.run_jobs(layer, experts, 2, phase);
        bench.resize(kTopK + random() % 12);
      }
    bench.end_prompt();
    bench.decode(&random);
  }
}

// As in Engine: one thread decodes, others resize and read the residency.
TEST(StreamResize, OtherThreadsResizeAndReadTheResidency) {
  StreamBench bench(6, 2);
  CallGate gate;
  std::atomic<bool> ended{false};
  std::thread resizing([&] {
    std::mt19937 random(3);
    while (!ended) {
      const uint32_t capacity = kTopK + static_cast<uint32_t>(random() % 16);
      gate.post([&bench, capacity] { bench.resize(capacity); });
      std::this_thread::yield();
    }
  });
  std::thread looking([&] {
    while (!ended) {
      const ResidencySnapshot shown = bench.map().snapshot();
      EXPECT_EQ(shown.states.size(), size_t{kLayers * kExperts});
      std::this_thread::yield();
    }
  });
  std::mt19937 random(4);
  for (int token = 0; token < 300; ++token) {
    const CallGate::Call call(&gate);
    for (uint32_t layer = 0; layer < kLayers; ++layer) {
      bench.decode_one(&random, layer);
      gate.pass();
    }
  }
  ended = true;
  resizing.join();
  looking.join();
  bench.decode(&random);
  expect_shown(&bench);
}

}  // namespace
}  // namespace moe_mobile::testing
