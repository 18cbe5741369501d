// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <random>

#include "base/error.h"
#include "base/expect_error.h"
#include "base/file.h"
#include "base/temporary_folder.h"
#include "cache/naive_cache.h"
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

// Experts of one number each, in a real file: expert(x) = x * number.
std::string file_content() {
  std::string content(kLayers * kExperts * kBlobAlignment, '\0');
  for (uint32_t layer = 0; layer < kLayers; ++layer)
    for (uint32_t expert = 0; expert < kExperts; ++expert) {
      const float weight = weight_of(layer, expert);
      std::memcpy(&content[(layer * kExperts + expert) * kBlobAlignment], &weight, sizeof weight);
    }
  return content;
}

class FakePlaces : public ExpertPlaces {
 public:
  enum class Step { kReadRequest, kArrived, kRun };

  FakePlaces(uint32_t count, const std::string& path) : path_(path), fd_(open_read(path)) {
    for (uint32_t i = 0; i < count; ++i) {
      buffers_.emplace_back(kBlobAlignment);
      ready_.push_back(false);
    }
  }
  // Throws in that step, once, after `calls` more that succeed.
  void fail_in(Step step, uint32_t calls) {
    failing_ = step;
    calls_left_ = calls;
    armed_ = true;
  }
  bool armed() const { return armed_; }

  uint32_t count() const override { return static_cast<uint32_t>(buffers_.size()); }
  ReadRequest read_request(const ExpertKey& key, uint32_t place) override {
    EXPECT_LT(place, count());
    may_fail(Step::kReadRequest);
    ready_.at(place) = false;
    ReadRequest request;
    request.fd = fd_.get();
    request.offset = (key.layer * kExperts + key.expert) * kBlobAlignment;
    request.length = kBlobAlignment;
    request.payload_bytes = kBlobAlignment;
    request.destination = buffers_.at(place).data();
    request.file = &path_;
    return request;
  }
  void arrived(const ExpertKey&, uint32_t place) override {
    may_fail(Step::kArrived);
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
  std::vector<AlignedBuffer> buffers_;
  std::vector<bool> ready_;
  Step failing_ = Step::kRun;
  uint32_t calls_left_ = 0;
  bool armed_ = false;
};

enum class Phase { kDecode, kBatch, kLastBatch };

// A stream and, beside it, the cache that sees the same tokens one by one.
class Bench {
 public:
  // Places for all layers together, or for each.
  Bench(uint32_t places, unsigned lanes, bool overlap, bool global = true)
      : naive_(global ? 1 : kLayers, NaiveCache(places)) {
    path_ = folder_.file("experts");
    testing::write_file(path_, file_content());
    ExpertStream::Options options;
    options.lanes = lanes;
    options.moe_layers = kLayers;
    options.overlap = overlap;
    options.cache.layers = kLayers;
    options.cache.experts = kExperts;
    options.cache.global = global;
    options.cache.capacity = places;
    auto fakes = std::make_unique<FakePlaces>(places * (global ? 1 : kLayers), path_);
    places_ = fakes.get();
    stream_ = std::make_unique<ExpertStream>(std::move(fakes), options);
  }

  void decode(std::mt19937* random) {
    for (uint32_t layer = 0; layer < kLayers; ++layer) {
      const std::vector<uint32_t> chosen = choose(random);
      run_jobs(layer, chosen, 1, Phase::kDecode);
      access(layer, chosen);
    }
    expect_same_cache();
  }

  void prefill(std::mt19937* random, uint32_t tokens, uint32_t batch) {
    std::vector<uint32_t> selected(tokens * kLayers * kTopK);
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
    const std::vector<uint32_t> layers = {0, 1, 2};
    stream_->finish_prefill(selected, layers, kTopK);
    for (uint32_t token = 0; token < tokens; ++token)
      for (uint32_t layer = 0; layer < kLayers; ++layer) {
        const auto at = selected.begin() + (token * kLayers + layer) * kTopK;
        access(layer, std::vector<uint32_t>(at, at + kTopK));
      }
    expect_same_cache();
  }

  void run_jobs(uint32_t layer, const std::vector<uint32_t>& experts, uint32_t rows, Phase phase) {
    std::vector<float> x(experts.size() * rows), y(x.size(), -1);
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i + 1);
    std::vector<ExpertJob> jobs;
    for (size_t i = 0; i < experts.size(); ++i)
      jobs.push_back({experts[i], x.data() + i * rows, rows, y.data() + i * rows});
    TokenMetrics metrics;
    if (phase == Phase::kDecode) {
      stream_->decode(layer, jobs, &metrics);
    } else {
      stream_->prefill(layer, jobs, phase == Phase::kLastBatch, &metrics);
    }
    EXPECT_EQ(metrics.hits + metrics.misses, jobs.size());
    misses_ += metrics.misses;
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
    EXPECT_EQ(stream_->cache().by_recency(), expected);
  }

  const std::string& path() const { return path_; }
  uint32_t misses() const { return misses_; }
  ExpertStream& stream() { return *stream_; }
  FakePlaces& places() { return *places_; }

 private:
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
  FakePlaces* places_;
  std::unique_ptr<ExpertStream> stream_;
  uint32_t misses_ = 0;
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

TEST(ExpertStream, APromptOfManyBatchesReadsNoExpertTwiceWhereOneLayersFit) {
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
      for (uint32_t expert = 0; expert + 1 < kExperts; ++expert)
        bench.run_jobs(seed % kLayers, {expert, expert + 1}, 1,
                       seed % 3 == 0 ? Phase::kLastBatch : Phase::kDecode);
    };
    EXPECT_ERROR(use_most(), ErrorCode::kBundleCorrupt, bench.path());
    bench.stream().finish_prefill({}, std::vector<uint32_t>{0, 1, 2}, kTopK);
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
        for (uint32_t layer = 0; layer < kLayers; ++layer)
          for (uint32_t expert = 0; expert < kExperts; expert += 3)
            bench.run_jobs(layer, {expert, expert + 1, expert + 2}, 1, phase);
      };
      EXPECT_ERROR(use_all(), ErrorCode::kRuntime, "told to fail");
      EXPECT_FALSE(bench.places().armed());
      if (prefill) bench.stream().finish_prefill({}, std::vector<uint32_t>{0, 1, 2}, kTopK);
      // Each expert still computes what it should: no place claims one that did not come, and no
      // read of before the failure is taken for a later one.
      use_all();
      if (prefill) bench.stream().finish_prefill({}, std::vector<uint32_t>{0, 1, 2}, kTopK);
      for (uint32_t layer = 0; layer < kLayers; ++layer)
        for (uint32_t expert = 0; expert < kExperts; ++expert)
          bench.run_jobs(layer, {expert, (expert + 1) % kExperts}, 1, Phase::kDecode);
    }
}

TEST(ExpertStream, FillsWithTheBestThatFit) {
  const std::vector<std::vector<uint32_t>> best = {{4, 1, 0}, {}, {2, 3}};
  const auto key = [](uint32_t layer, uint32_t expert) { return ExpertKey{layer, expert}; };
  Bench shared(4, 2, true);
  shared.stream().fill(best, ignore_progress);
  EXPECT_EQ(shared.stream().cache().by_recency(),
            (std::vector<ExpertKey>{key(2, 3), key(0, 1), key(2, 2), key(0, 4)}));
  Bench divided(2, 2, true, /*global=*/false);
  std::mt19937 random(5);
  divided.decode(&random);
  uint64_t loaded = 0;
  divided.stream().fill(best, [&](const char*, uint64_t done, uint64_t) { loaded = done; });
  EXPECT_LE(loaded, 4u);  // some were there
  EXPECT_EQ(divided.stream().cache().by_recency(),
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
  EXPECT_ERROR(bench.stream().fill(best, ignore_progress), ErrorCode::kBundleCorrupt, bench.path());
  testing::write_file(bench.path(), file_content());
  for (uint32_t layer = 0; layer < kLayers; ++layer)
    bench.run_jobs(layer, {0, 5}, 1, Phase::kDecode);
}

TEST(ExpertStream, HoldsAllThatFits) {
  Bench bench(kLayers * kExperts, 2, true);
  const std::vector<std::vector<uint32_t>> all(kLayers, std::vector<uint32_t>{0, 1, 2, 3, 4, 5});
  uint64_t steps = 0;
  bench.stream().fill(all, [&](const char*, uint64_t done, uint64_t) { steps = done; });
  EXPECT_EQ(steps, kLayers * kExperts);
  ASSERT_EQ(::truncate(bench.path().c_str(), 0), 0);  // nothing is read any more
  for (uint32_t layer = 0; layer < kLayers; ++layer)
    bench.run_jobs(layer, {0, 5}, 1, Phase::kDecode);
  bench.stream().forget_all();
  EXPECT_EQ(bench.stream().cache().size(), 0u);
}

}  // namespace
}  // namespace moe_mobile
