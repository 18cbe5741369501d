// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "engine/expert_stream_bench.h"

// Predicted experts of a stream: prefetch() and withdraw().
namespace moe_mobile::testing {
namespace {

using Keys = std::vector<ExpertKey>;

// Reads that are large enough to be still running at the next call.
constexpr size_t kSlowBlob = size_t{4} << 20;
// The first four experts of layer 0.
const Keys kFour = {{0, 0}, {0, 1}, {0, 2}, {0, 3}};

StreamBench slow_bench() { return {2, 1, true, /*global=*/true, /*spare=*/4, kSlowBlob}; }

TEST(Speculation, ChangesNeitherOutputsNorCache) {
  for (uint32_t seed = 0; seed < 60; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    const uint32_t places = kTopK + random() % (kLayers * kExperts - kTopK + 1);
    StreamBench bench(places, 1 + random() % 3, random() % 2 == 0, /*global=*/true, random() % 5);
    const auto some_keys = [&] {
      Keys keys;
      for (uint32_t i = random() % 6; i > 0; --i)
        keys.push_back({static_cast<uint32_t>(random() % kLayers),
                        static_cast<uint32_t>(random() % kExperts)});
      return keys;
    };
    for (int step = 0; step < 40; ++step) {
      if (random() % 2 == 0) {
        const Keys keys = some_keys();
        EXPECT_LE(bench.stream().prefetch(keys), keys.size());
      }
      if (random() % 4 == 0) bench.stream().withdraw(some_keys());
      if (random() % 10 == 0) {
        bench.prefill(&random, 1 + random() % 9, 1 + random() % 5);
      } else {
        bench.decode_one(&random, random() % kLayers);
      }
    }
    bench.end_prompt();  // drops all predictions
    bench.decode(&random);
    EXPECT_LE(bench.bytes_wasted(), bench.bytes_read());
    EXPECT_LE(bench.bytes_read(), bench.places().requested().size() * kBlobAlignment);
    // Everything that was read and not wasted has arrived.
    EXPECT_LE((bench.bytes_read() - bench.bytes_wasted()) / kBlobAlignment,
              bench.places().arrived().size());
  }
}

TEST(Speculation, WithoutPredictionsNothingIsWasted) {
  StreamBench bench(5, 2, true, /*global=*/true, /*spare=*/3);
  std::mt19937 random(7);
  for (int step = 0; step < 10; ++step) bench.decode(&random);
  bench.prefill(&random, 9, 4);
  EXPECT_EQ(bench.bytes_wasted(), 0u);
  EXPECT_EQ(bench.bytes_read(), bench.misses() * kBlobAlignment);
}

TEST(Speculation, APredictedExpertIsReadOnceAndIsAHitWhenReady) {
  StreamBench bench(2, 1, true, /*global=*/true, /*spare=*/2);
  const Keys predicted = {{0, 1}, {0, 2}};
  EXPECT_EQ(bench.stream().prefetch(predicted), 2u);
  EXPECT_EQ(bench.stream().prefetch(predicted), 2u);  // again: nothing is read twice
  while (bench.places().arrived().size() < 2) bench.stream().prefetch(predicted);
  for (const ExpertKey& expert : predicted)
    EXPECT_EQ(std::count_if(
                  bench.stream().residency(0).begin(), bench.stream().residency(0).end(),
                  [&](const Slot& s) { return s.state == SlotState::kReady && s.key == expert; }),
              1);
  bench.run_jobs(0, {1, 2});
  EXPECT_EQ(bench.hits(), 2u);
  EXPECT_EQ(bench.bytes_read(), 2 * kBlobAlignment);
  EXPECT_EQ(bench.bytes_wasted(), 0u);
}

TEST(Speculation, AnExpertDemandedDuringItsPredictedReadIsNotReadTwice) {
  StreamBench bench = slow_bench();
  bench.stream().prefetch(kFour);
  bench.run_jobs(0, {3, 2});  // waiting reads: they are promoted
  bench.run_jobs(0, {3, 0});  // under way or arrived
  const Keys& requested = bench.places().requested();
  for (const ExpertKey& key : kFour)
    EXPECT_EQ(std::count(requested.begin(), requested.end(), key), 1);
}

// In the next two tests it is enough if one attempt succeeds: if this thread was delayed, all reads
// may have ended before.
TEST(Speculation, ADemandedReadPassesPredictedOnes) {
  for (int attempt = 0; attempt < 50; ++attempt) {
    StreamBench bench = slow_bench();
    bench.stream().prefetch(kFour);
    bench.run_jobs(2, {4, 5});
    const Keys& arrived = bench.places().arrived();
    const auto end = arrived.end();
    if (std::find(arrived.begin(), end, ExpertKey{2, 5}) <
        std::find(arrived.begin(), end, kFour[3]))
      return;
  }
  FAIL() << "predicted experts always came first";
}

TEST(Speculation, AWithdrawnReadThatHasNotBegunCostsNothing) {
  for (int attempt = 0; attempt < 50; ++attempt) {
    StreamBench bench = slow_bench();
    bench.stream().prefetch(kFour);
    bench.stream().withdraw(kFour);
    bench.run_jobs(2, {4, 5});
    bench.end_prompt();
    bench.run_jobs(2, {4, 5});  // reports what ended in between
    EXPECT_EQ(bench.bytes_read(), bench.bytes_wasted() + 2 * kSlowBlob);
    if (bench.bytes_wasted() < kFour.size() * kSlowBlob) return;
  }
  FAIL() << "all reads had begun before they were withdrawn, 50 times";
}

TEST(Speculation, OlderPredictionsGiveWay) {
  StreamBench bench(2, 2, true, /*global=*/true, /*spare=*/1);
  const auto until_arrived = [&](const Keys& keys, size_t count) {
    while (bench.places().arrived().size() < count) bench.stream().prefetch(keys);
  };
  bench.run_jobs(0, {0, 1});
  until_arrived({{1, 0}}, 3);
  // The first gives way; there is no more room.
  EXPECT_EQ(bench.stream().prefetch(Keys{{1, 1}, {1, 2}}), 1u);
  until_arrived({{1, 1}}, 4);
  bench.run_jobs(2, {0, 1});  // the two earlier ones leave; the prediction stays
  bench.run_jobs(1, {1, 3});
  EXPECT_EQ(bench.hits(), 1u);
  EXPECT_EQ(bench.bytes_wasted(), kBlobAlignment);  // the first prediction
}

TEST(Speculation, APredictionThatCannotBeReadIsNoError) {
  StreamBench bench(2, 1, true, /*global=*/true, /*spare=*/2);
  bench.run_jobs(0, {0, 1});
  bench.truncate(100);
  bench.stream().prefetch(Keys{{2, 4}});
  bench.run_jobs(0, {0, 1});
  bench.stream().prefetch(Keys{{2, 4}});
  EXPECT_ERROR(bench.run_jobs(2, {4, 0}), ErrorCode::kBundleCorrupt, bench.path());
  bench.write_experts();
  bench.run_jobs(2, {4, 0});
}

TEST(Speculation, APromptReadsAheadByItself) {
  StreamBench bench(4, 1, true, /*global=*/true, /*spare=*/4);
  bench.stream().prefetch(Keys{{0, 0}, {0, 1}});
  bench.begin_prompt();
  EXPECT_EQ(bench.stream().prefetch(Keys{{0, 2}}), 0u);
  for (const Slot& slot : bench.stream().residency(0)) EXPECT_NE(slot.state, SlotState::kReading);
  bench.end_prompt();
  EXPECT_EQ(bench.stream().prefetch(Keys{{0, 2}}), 1u);
}

}  // namespace
}  // namespace moe_mobile::testing
