// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <random>
#include <thread>

#include "base/error.h"
#include "base/expect_error.h"
#include "base/file.h"
#include "base/temporary_folder.h"
#include "cache/logical_cache.h"
#include "cache/naive_cache.h"
#include "engine/call_gate.h"
#include "engine/expert_stream.h"

namespace moe_mobile {
namespace {

using testing::NaiveCache;
using testing::TemporaryFolder;

constexpr uint32_t kLayers = 3;
constexpr uint32_t kExperts = 6;
constexpr uint32_t kTopK = 2;

float weight_of(uint32_t layer, uint32_t expert) {
  return static_cast<float>(100 * (layer + 1) + expert);
}

// Experts that consist of one number each, in a real file: expert(x) = x * number.
std::string file_content(size_t blob_bytes = kBlobAlignment) {
  std::string content(kLayers * kExperts * blob_bytes, '\0');
  for (uint32_t layer = 0; layer < kLayers; ++layer)
    for (uint32_t expert = 0; expert < kExperts; ++expert) {
      const float weight = weight_of(layer, expert);
      std::memcpy(&content[(layer * kExperts + expert) * blob_bytes], &weight, sizeof weight);
    }
  return content;
}

class FakePlaces : public ExpertPlaces {
 public:
  enum class Step { kReadRequest, kArrived, kRun, kAdd };

  FakePlaces(uint32_t count, const std::string& path, size_t blob_bytes)
      : path_(path), fd_(open_read(path)), blob_bytes_(blob_bytes) {
    for (uint32_t i = 0; i < count; ++i) {
      buffers_.emplace_back(blob_bytes);
      ready_.push_back(false);
      given_back_.push_back(false);
    }
  }
  // Throws in that step, once, after `calls` more that succeed.
  void fail_in(Step step, uint32_t calls) {
    failing_ = step;
    calls_left_ = calls;
    armed_ = true;
  }
  bool armed() const { return armed_; }
  // All requested reads and all finished reads, in order.
  const std::vector<ExpertKey>& requested() const { return requested_; }
  const std::vector<ExpertKey>& arrived() const { return arrived_; }

  // Places whose memory was given back and that have not been used since.
  uint32_t given_back() const {
    return static_cast<uint32_t>(std::count(given_back_.begin(), given_back_.end(), true));
  }

  uint32_t count() const override { return static_cast<uint32_t>(buffers_.size()); }
  void add(uint32_t most) override {
    EXPECT_GE(most, 1u);
    may_fail(Step::kAdd);
    buffers_.emplace_back(blob_bytes_);
    ready_.push_back(false);
    given_back_.push_back(false);
  }
  void give_back(uint32_t place) override {
    std::memset(buffers_.at(place).data(), 0, blob_bytes_);
    ready_.at(place) = false;
    given_back_.at(place) = true;
  }
  ReadRequest read_request(const ExpertKey& key, uint32_t place) override {
    EXPECT_LT(place, count());
    may_fail(Step::kReadRequest);
    requested_.push_back(key);
    ready_.at(place) = false;
    given_back_.at(place) = false;
    ReadRequest request;
    request.fd = fd_.get();
    request.offset = (key.layer * kExperts + key.expert) * blob_bytes_;
    request.length = blob_bytes_;
    request.payload_bytes = blob_bytes_;
    request.destination = buffers_.at(place).data();
    request.file = &path_;
    return request;
  }
  void arrived(const ExpertKey& key, uint32_t place) override {
    may_fail(Step::kArrived);
    arrived_.push_back(key);
    ready_.at(place) = true;
  }
  void run(uint32_t place, const float* x, uint32_t rows, float* y) override {
    may_fail(Step::kRun);
    ASSERT_TRUE(ready_.at(place)) << "ran before its bytes were there";
    float weight;
    std::memcpy(&weight, buffers_.at(place).data(), sizeof weight);
    for (uint32_t row = 0; row < rows; ++row) y[row] = x[row] * weight;
  }

 private:
  void may_fail(Step step) {
    if (!armed_ || step != failing_ || calls_left_-- > 0) return;
    armed_ = false;
    throw Error(ErrorCode::kRuntime, "", "this place was told to fail");
  }

  std::string path_;
  UniqueFd fd_;
  size_t blob_bytes_;
  std::vector<ExpertKey> requested_, arrived_;
  std::vector<AlignedBuffer> buffers_;
  std::vector<bool> ready_, given_back_;
  Step failing_ = Step::kRun;
  uint32_t calls_left_ = 0;
  bool armed_ = false;
};

enum class Phase { kDecode, kBatch, kLastBatch };

// A stream with the cache that decides which experts leave, and a naive cache that sees the same
// tokens one by one.
class Bench {
 public:
  // Places for all layers together or for each layer, and `spare` places that the cache does not
  // use.
  Bench(uint32_t places, unsigned lanes, bool overlap, bool global = true, uint32_t spare = 0,
        size_t blob_bytes = kBlobAlignment)
      : naive_(global ? 1 : kLayers, NaiveCache(places)), spare_(spare), map_({0, 1, 2}, kExperts) {
    path_ = folder_.file("experts");
    testing::write_file(path_, file_content(blob_bytes));
    LogicalCacheOptions cache;
    cache.layers = kLayers;
    cache.experts = kExperts;
    cache.global = global;
    cache.capacity = places;
    cache_ = std::make_unique<LogicalCache>(cache);
    ExpertStream::Options options;
    options.lanes = lanes;
    options.moe_layers = kLayers;
    options.overlap = overlap;
    options.shown = &map_;
    auto fakes =
        std::make_unique<FakePlaces>(places * (global ? 1 : kLayers) + spare, path_, blob_bytes);
    places_ = fakes.get();
    std::vector<std::unique_ptr<ExpertPlaces>> by_variant;
    by_variant.push_back(std::move(fakes));
    stream_ = std::make_unique<ExpertStream>(std::move(by_variant), options);
  }

  void decode(std::mt19937* random) {
    for (uint32_t layer = 0; layer < kLayers; ++layer) decode_one(random, layer);
    expect_same_cache();
  }
  void decode_one(std::mt19937* random, uint32_t layer) {
    const std::vector<uint32_t> chosen = choose(random);
    run_jobs(layer, chosen, 1, Phase::kDecode);
    access(layer, chosen);
  }

  void prefill(std::mt19937* random, uint32_t tokens, uint32_t batch) {
    std::vector<uint32_t> selected(tokens * kLayers * kTopK);
    begin_prompt();
    for (uint32_t layer = 0; layer < kLayers; ++layer) {
      for (uint32_t first = 0; first < tokens; first += batch) {
        const uint32_t rows = std::min(batch, tokens - first);
        std::vector<uint32_t> order;  // by last use, least recent first
        for (uint32_t row = 0; row < rows; ++row) {
          const std::vector<uint32_t> chosen = choose(random);
          std::copy(chosen.begin(), chosen.end(),
                    selected.begin() + ((first + row) * kLayers + layer) * kTopK);
          for (auto expert = chosen.rbegin(); expert != chosen.rend(); ++expert) {
            order.erase(std::remove(order.begin(), order.end(), *expert), order.end());
            order.push_back(*expert);
          }
        }
        run_jobs(layer, order, 2, first + rows == tokens ? Phase::kLastBatch : Phase::kBatch);
      }
    }
    for (uint32_t token = 0; token < tokens; ++token)
      for (uint32_t layer = 0; layer < kLayers; ++layer) {
        const auto at = selected.begin() + (token * kLayers + layer) * kTopK;
        const std::vector<uint32_t> chosen(at, at + kTopK);
        use(layer, chosen);
        access(layer, chosen);
      }
    end_prompt();
    expect_same_cache();
  }

  void begin_prompt() { stream_->begin_prompt(cache_->by_recency()); }
  void end_prompt() { stream_->retain(cache_->by_recency()); }
  void fill(const std::vector<std::vector<uint32_t>>& best, const Progress& progress) {
    cache_->fill(best);
    stream_->load(cache_->by_recency(), progress);
  }

  void run_jobs(uint32_t layer, const std::vector<uint32_t>& experts, uint32_t rows, Phase phase) {
    std::vector<float> x(experts.size() * rows), y(x.size(), -1);
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i + 1);
    std::vector<ExpertJob> jobs;
    for (size_t i = 0; i < experts.size(); ++i)
      jobs.push_back({{layer, experts[i]}, x.data() + i * rows, rows, y.data() + i * rows});
    TokenMetrics metrics;
    if (phase == Phase::kDecode) {
      stream_->decode(jobs, use(layer, experts), &metrics);
    } else {
      stream_->prefill(jobs, phase == Phase::kLastBatch, &metrics);
    }
    EXPECT_EQ(metrics.hits + metrics.misses, jobs.size());
    hits_ += metrics.hits;
    misses_ += metrics.misses;
    bytes_read_ += metrics.bytes_read;
    bytes_wasted_ += metrics.bytes_wasted;
    for (size_t i = 0; i < experts.size(); ++i)
      for (uint32_t row = 0; row < rows; ++row)
        EXPECT_EQ(y[i * rows + row], x[i * rows + row] * weight_of(layer, experts[i]));
  }

  void expect_same_cache() const {
    std::vector<ExpertKey> expected;
    for (const NaiveCache& pool : naive_) {
      const std::vector<ExpertKey> keys = pool.by_recency();
      EXPECT_LE(keys.size(), pool.capacity());
      expected.insert(expected.end(), keys.begin(), keys.end());
    }
    EXPECT_EQ(cache_->by_recency(), expected);
    // Nothing else stays in memory, and no read is in flight.
    for (const Slot& slot : stream_->residency(0)) {
      EXPECT_NE(slot.state, SlotState::kReading);
      if (slot.state == SlotState::kFree) continue;
      EXPECT_EQ(std::count(expected.begin(), expected.end(), slot.key), 1);
    }
  }

  // `capacity`: of each pool.
  void resize(uint32_t capacity) {
    for (NaiveCache& pool : naive_) pool.resize(capacity);
    cache_->resize(capacity);
    const uint32_t places = capacity * static_cast<uint32_t>(naive_.size()) + spare_;
    stream_->resize(Span<const uint32_t>(&places, 1), cache_->by_recency());
  }

  const ResidencyMap& map() const { return map_; }
  const std::string& path() const { return path_; }
  uint32_t hits() const { return hits_; }
  uint32_t misses() const { return misses_; }
  uint64_t bytes_read() const { return bytes_read_; }
  uint64_t bytes_wasted() const { return bytes_wasted_; }
  const LogicalCache& cache() const { return *cache_; }
  ExpertStream& stream() { return *stream_; }
  FakePlaces& places() { return *places_; }

 private:
  // Returns the experts that leave.
  Span<const ExpertKey> use(uint32_t layer, const std::vector<uint32_t>& chosen) {
    std::vector<uint8_t> uncached(chosen.size());
    return cache_->access(layer, chosen, uncached.data());
  }
  static std::vector<uint32_t> choose(std::mt19937* random) {
    std::vector<uint32_t> chosen;
    while (chosen.size() < kTopK) {
      const uint32_t expert = (*random)() % kExperts;
      if (chosen.empty() || chosen[0] != expert) chosen.push_back(expert);
    }
    return chosen;
  }
  void access(uint32_t layer, const std::vector<uint32_t>& chosen) {
    std::vector<ExpertKey> keys;
    for (uint32_t expert : chosen) keys.push_back({layer, expert});
    naive_[naive_.size() == 1 ? 0 : layer].access(keys);
  }

  TemporaryFolder folder_;
  std::string path_;
  std::vector<NaiveCache> naive_;  // a pool each
  std::unique_ptr<LogicalCache> cache_;
  const uint32_t spare_;
  ResidencyMap map_;
  FakePlaces* places_;
  std::unique_ptr<ExpertStream> stream_;
  uint32_t hits_ = 0, misses_ = 0;
  uint64_t bytes_read_ = 0, bytes_wasted_ = 0;
};

TEST(ExpertStream, AnySequenceGivesTheOutputsAndTheCacheOfTokenByTokenRouting) {
  for (uint32_t seed = 0; seed < 60; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    const bool global = seed % 3 != 0;
    const uint32_t most = global ? kLayers * kExperts : kExperts;
    const uint32_t places = kTopK + random() % (most - kTopK + 1);
    Bench bench(places, 1 + random() % 3, random() % 2 == 0, global);
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

// Reads that are large enough to be still running at the next call.
constexpr size_t kSlowBlob = size_t{4} << 20;

ExpertKey key(uint32_t layer, uint32_t expert) { return {layer, expert}; }

size_t position(const std::vector<ExpertKey>& keys, const ExpertKey& wanted) {
  return static_cast<size_t>(std::find(keys.begin(), keys.end(), wanted) - keys.begin());
}

TEST(ExpertStream, PredictionsChangeNeitherOutputsNorCache) {
  for (uint32_t seed = 0; seed < 60; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    const uint32_t places = kTopK + random() % (kLayers * kExperts - kTopK + 1);
    Bench bench(places, 1 + random() % 3, random() % 2 == 0, /*global=*/true, random() % 5);
    const auto some_keys = [&] {
      std::vector<ExpertKey> keys;
      for (uint32_t i = random() % 6; i > 0; --i)
        keys.push_back({static_cast<uint32_t>(random() % kLayers),
                        static_cast<uint32_t>(random() % kExperts)});
      return keys;
    };
    for (int step = 0; step < 40; ++step) {
      if (random() % 2 == 0) {
        const std::vector<ExpertKey> keys = some_keys();
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

TEST(ExpertStream, WithoutPredictionsNothingIsWasted) {
  Bench bench(5, 2, true, /*global=*/true, /*spare=*/3);
  std::mt19937 random(7);
  for (int step = 0; step < 10; ++step) bench.decode(&random);
  bench.prefill(&random, 9, 4);
  EXPECT_EQ(bench.bytes_wasted(), 0u);
  EXPECT_EQ(bench.bytes_read(), bench.misses() * kBlobAlignment);
}

TEST(ExpertStream, APredictedExpertIsReadOnceAndIsAHitWhenReady) {
  Bench bench(2, 1, true, /*global=*/true, /*spare=*/2);
  const std::vector<ExpertKey> predicted = {key(0, 1), key(0, 2)};
  EXPECT_EQ(bench.stream().prefetch(predicted), 2u);
  EXPECT_EQ(bench.stream().prefetch(predicted), 2u);  // again: nothing is read twice
  while (bench.places().arrived().size() < 2) bench.stream().prefetch(predicted);
  for (const ExpertKey& expert : predicted)
    EXPECT_EQ(std::count_if(
                  bench.stream().residency(0).begin(), bench.stream().residency(0).end(),
                  [&](const Slot& s) { return s.state == SlotState::kReady && s.key == expert; }),
              1);
  bench.run_jobs(0, {1, 2}, 1, Phase::kDecode);
  EXPECT_EQ(bench.hits(), 2u);
  EXPECT_EQ(bench.bytes_read(), 2 * kBlobAlignment);
  EXPECT_EQ(bench.bytes_wasted(), 0u);
}

TEST(ExpertStream, AnExpertDemandedDuringItsPredictedReadIsNotReadTwice) {
  Bench bench(2, 1, true, /*global=*/true, /*spare=*/4, kSlowBlob);
  bench.stream().prefetch(std::vector<ExpertKey>{key(1, 0), key(1, 1), key(1, 2), key(1, 3)});
  bench.run_jobs(1, {3, 2}, 1, Phase::kDecode);  // waiting reads: they are promoted
  bench.run_jobs(1, {3, 0}, 1, Phase::kDecode);  // under way or arrived
  for (uint32_t expert = 0; expert < 4; ++expert)
    EXPECT_EQ(std::count(bench.places().requested().begin(), bench.places().requested().end(),
                         key(1, expert)),
              1);
}

TEST(ExpertStream, ADemandedReadPassesPredictedOnes) {
  // It is enough if one attempt succeeds: if this thread was delayed, all reads may have ended
  // before.
  for (int attempt = 0; attempt < 50; ++attempt) {
    Bench bench(2, 1, true, /*global=*/true, /*spare=*/4, kSlowBlob);
    bench.stream().prefetch(std::vector<ExpertKey>{key(0, 0), key(0, 1), key(0, 2), key(0, 3)});
    bench.run_jobs(2, {4, 5}, 1, Phase::kDecode);
    const std::vector<ExpertKey>& arrived = bench.places().arrived();
    if (position(arrived, key(2, 5)) < position(arrived, key(0, 3))) return;
  }
  FAIL() << "predicted experts always came first";
}

TEST(ExpertStream, AWithdrawnReadThatHasNotBegunCostsNothing) {
  for (int attempt = 0; attempt < 50; ++attempt) {
    Bench bench(2, 1, true, /*global=*/true, /*spare=*/4, kSlowBlob);
    const std::vector<ExpertKey> predicted = {key(0, 0), key(0, 1), key(0, 2), key(0, 3)};
    bench.stream().prefetch(predicted);
    bench.stream().withdraw(predicted);
    bench.run_jobs(2, {4, 5}, 1, Phase::kDecode);
    bench.stream().retain(bench.cache().by_recency());
    bench.run_jobs(2, {4, 5}, 1, Phase::kDecode);  // reports what ended in between
    EXPECT_EQ(bench.bytes_read(), bench.bytes_wasted() + 2 * kSlowBlob);
    if (bench.bytes_wasted() < predicted.size() * kSlowBlob) return;
  }
  FAIL() << "all reads had begun before they were withdrawn, 50 times";
}

TEST(ExpertStream, OlderPredictionsGiveWay) {
  Bench bench(2, 2, true, /*global=*/true, /*spare=*/1);
  const auto until_arrived = [&](const std::vector<ExpertKey>& keys, size_t count) {
    while (bench.places().arrived().size() < count) bench.stream().prefetch(keys);
  };
  bench.run_jobs(0, {0, 1}, 1, Phase::kDecode);
  const std::vector<ExpertKey> first = {key(1, 0)}, second = {key(1, 1), key(1, 2)};
  until_arrived(first, 3);
  EXPECT_EQ(bench.stream().prefetch(second), 1u);  // the first gives way; there is no more room
  until_arrived({key(1, 1)}, 4);
  bench.run_jobs(2, {0, 1}, 1, Phase::kDecode);  // the two earlier ones leave; the prediction stays
  bench.run_jobs(1, {1, 3}, 1, Phase::kDecode);
  EXPECT_EQ(bench.hits(), 1u);
  EXPECT_EQ(bench.bytes_wasted(), kBlobAlignment);  // the first prediction
}

TEST(ExpertStream, APredictionThatCannotBeReadIsNoError) {
  Bench bench(2, 1, true, /*global=*/true, /*spare=*/2);
  bench.run_jobs(0, {0, 1}, 1, Phase::kDecode);
  ASSERT_EQ(::truncate(bench.path().c_str(), 100), 0);
  bench.stream().prefetch(std::vector<ExpertKey>{key(2, 4)});
  bench.run_jobs(0, {0, 1}, 1, Phase::kDecode);
  bench.stream().prefetch(std::vector<ExpertKey>{key(2, 4)});
  EXPECT_ERROR(bench.run_jobs(2, {4, 0}, 1, Phase::kDecode), ErrorCode::kBundleCorrupt,
               bench.path());
  testing::write_file(bench.path(), file_content());
  bench.run_jobs(2, {4, 0}, 1, Phase::kDecode);
}

TEST(ExpertStream, APromptReadsAheadByItself) {
  Bench bench(4, 1, true, /*global=*/true, /*spare=*/4);
  bench.stream().prefetch(std::vector<ExpertKey>{key(0, 0), key(0, 1)});
  bench.begin_prompt();
  EXPECT_EQ(bench.stream().prefetch(std::vector<ExpertKey>{key(0, 2)}), 0u);
  for (const Slot& slot : bench.stream().residency(0)) EXPECT_NE(slot.state, SlotState::kReading);
  bench.end_prompt();
  EXPECT_EQ(bench.stream().prefetch(std::vector<ExpertKey>{key(0, 2)}), 1u);
}

TEST(ExpertStream, APromptOfManyBatchesReadsNoExpertTwiceIfALayersExpertsFit) {
  for (uint32_t places = kExperts; places <= kLayers * kExperts; ++places)
    for (uint32_t seed = 0; seed < 10; ++seed) {
      SCOPED_TRACE(std::to_string(places) + " places, seed " + std::to_string(seed));
      std::mt19937 random(seed);
      Bench bench(places, 1 + seed % 3, true);
      bench.prefill(&random, 40, 1 + seed);
      EXPECT_LE(bench.misses(), kLayers * kExperts);
    }
}

TEST(ExpertStream, AReadErrorLeavesItUsable) {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    Bench bench(5, 2, seed % 2 == 0);
    bench.decode(&random);
    ASSERT_EQ(::truncate(bench.path().c_str(), 100), 0);
    // More experts than places: some must be read.
    const auto use_most = [&] {
      if (seed % 3 == 0) bench.begin_prompt();
      for (uint32_t expert = 0; expert + 1 < kExperts; ++expert)
        bench.run_jobs(seed % kLayers, {expert, expert + 1}, 1,
                       seed % 3 == 0 ? Phase::kLastBatch : Phase::kDecode);
    };
    EXPECT_ERROR(use_most(), ErrorCode::kBundleCorrupt, bench.path());
    bench.end_prompt();
    testing::write_file(bench.path(), file_content());
    for (uint32_t layer = 0; layer < kLayers; ++layer)
      for (uint32_t expert = 0; expert < kExperts; ++expert)
        bench.run_jobs(layer, {expert, (expert + 1) % kExperts}, 1, Phase::kDecode);
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
      Bench bench(5, 1 + seed % 3, seed % 4 < 2);
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
      for (uint32_t layer = 0; layer < kLayers; ++layer)
        for (uint32_t expert = 0; expert < kExperts; ++expert)
          bench.run_jobs(layer, {expert, (expert + 1) % kExperts}, 1, Phase::kDecode);
    }
}

TEST(ExpertStream, FillsWithTheBestThatFit) {
  const std::vector<std::vector<uint32_t>> best = {{4, 1, 0}, {}, {2, 3}};
  Bench shared(4, 2, true);
  shared.fill(best, ignore_progress);
  EXPECT_EQ(shared.cache().by_recency(),
            (std::vector<ExpertKey>{key(2, 3), key(0, 1), key(2, 2), key(0, 4)}));
  Bench divided(2, 2, true, /*global=*/false);
  std::mt19937 random(5);
  divided.decode(&random);
  uint64_t loaded = 0;
  divided.fill(best, [&](const char*, uint64_t done, uint64_t) { loaded = done; });
  EXPECT_LE(loaded, 4u);  // some were in memory
  EXPECT_EQ(divided.cache().by_recency(),
            (std::vector<ExpertKey>{key(0, 1), key(0, 4), key(2, 3), key(2, 2)}));
  for (Bench* bench : {&shared, &divided}) {
    ASSERT_EQ(::truncate(bench->path().c_str(), 0), 0);  // nothing is read any more
    bench->run_jobs(0, {4, 1}, 1, Phase::kDecode);
    bench->run_jobs(2, {3, 2}, 1, Phase::kDecode);
  }
}

TEST(ExpertStream, AReadErrorWhileFillingLeavesItUsable) {
  const std::vector<std::vector<uint32_t>> best(kLayers, std::vector<uint32_t>{0, 1, 2, 3, 4, 5});
  Bench bench(kLayers * kExperts, 2, true);
  ASSERT_EQ(::truncate(bench.path().c_str(), 100), 0);
  EXPECT_ERROR(bench.fill(best, ignore_progress), ErrorCode::kBundleCorrupt, bench.path());
  testing::write_file(bench.path(), file_content());
  for (uint32_t layer = 0; layer < kLayers; ++layer)
    bench.run_jobs(layer, {0, 5}, 1, Phase::kDecode);
}

TEST(ExpertStream, HoldsAllThatFits) {
  Bench bench(kLayers * kExperts, 2, true);
  const std::vector<std::vector<uint32_t>> all(kLayers, std::vector<uint32_t>{0, 1, 2, 3, 4, 5});
  uint64_t steps = 0;
  bench.fill(all, [&](const char*, uint64_t done, uint64_t) { steps = done; });
  EXPECT_EQ(steps, kLayers * kExperts);
  ASSERT_EQ(::truncate(bench.path().c_str(), 0), 0);  // nothing is read any more
  for (uint32_t layer = 0; layer < kLayers; ++layer)
    bench.run_jobs(layer, {0, 5}, 1, Phase::kDecode);
  for (const Slot& slot : bench.stream().residency(0)) EXPECT_EQ(slot.state, SlotState::kReady);
  bench.stream().retain({});
  for (const Slot& slot : bench.stream().residency(0)) EXPECT_EQ(slot.state, SlotState::kFree);
}

// Other threads see the same as the table.
void expect_shown(Bench* bench) {
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

TEST(ExpertStream, AnyResizesGiveTheOutputsAndTheCacheOfTokenByTokenRouting) {
  for (uint32_t seed = 0; seed < 60; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    const bool global = seed % 3 != 0;
    const uint32_t most = global ? kLayers * kExperts : kExperts;
    const auto any = [&] { return kTopK + static_cast<uint32_t>(random() % (most - kTopK + 1)); };
    Bench bench(any(), 1 + random() % 3, random() % 2 == 0, global, seed % 2);
    for (int step = 0; step < 40; ++step) {
      const uint32_t capacity = any();
      bench.resize(capacity);
      // From now on the places that keep memory are within the new limit.
      const uint32_t limit = capacity * (global ? 1 : kLayers) + seed % 2;
      EXPECT_LE(bench.places().count() - bench.places().given_back(), limit);
      if (random() % 5 == 0) bench.stream().prefetch(std::vector<ExpertKey>{key(1, 2), key(2, 2)});
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

TEST(ExpertStream, ShrinkingGivesMemoryBackAtOnceAndGrowingTakesItLater) {
  Bench bench(12, 2, true);
  const std::vector<std::vector<uint32_t>> best(kLayers, std::vector<uint32_t>{0, 1, 2, 3});
  bench.fill(best, ignore_progress);
  bench.resize(5);
  EXPECT_EQ(bench.places().given_back(), 7u);
  EXPECT_EQ(bench.cache().size(), 5u);
  expect_shown(&bench);
  bench.resize(18);
  EXPECT_EQ(bench.places().given_back(), 7u);  // until they are used
  EXPECT_EQ(bench.places().count(), 12u);
  bench.fill(std::vector<std::vector<uint32_t>>(kLayers, {0, 1, 2, 3, 4, 5}), ignore_progress);
  EXPECT_EQ(bench.places().given_back(), 0u);
  EXPECT_EQ(bench.places().count(), 18u);
  expect_shown(&bench);
}

TEST(ExpertStream, APlaceThatCannotBeAddedLeavesItUsable) {
  Bench bench(2, 2, true);
  bench.run_jobs(0, {0, 1}, 1, Phase::kDecode);
  bench.resize(4);
  bench.places().fail_in(FakePlaces::Step::kAdd, 0);
  EXPECT_ERROR(bench.run_jobs(1, {0, 1}, 1, Phase::kDecode), ErrorCode::kRuntime, "told to fail");
  bench.run_jobs(1, {0, 1}, 1, Phase::kDecode);
  bench.run_jobs(0, {0, 1}, 1, Phase::kDecode);
  EXPECT_EQ(bench.places().count(), 4u);

  // The place that was not added cannot be given back.
  bench.resize(8);
  bench.places().fail_in(FakePlaces::Step::kAdd, 0);
  EXPECT_ERROR(bench.run_jobs(0, {2, 3}, 1, Phase::kDecode), ErrorCode::kRuntime, "told to fail");
  bench.resize(2);
  bench.run_jobs(0, {2, 3}, 1, Phase::kDecode);
}

TEST(ExpertStream, APromptContinuesWithFewerAndMorePlaces) {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    std::mt19937 random(seed);
    Bench bench(8, 2, true);
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
TEST(ExpertStream, OtherThreadsResizeAndReadTheResidency) {
  Bench bench(6, 2, true);
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
}  // namespace moe_mobile
