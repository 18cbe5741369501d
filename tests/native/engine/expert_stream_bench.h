// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/expect_error.h"
#include "base/file.h"
#include "base/temporary_folder.h"
#include "cache/logical_cache.h"
#include "cache/naive_cache.h"
#include "engine/expert_stream.h"

namespace moe_mobile::testing {

constexpr uint32_t kLayers = 3;
constexpr uint32_t kExperts = 6;
constexpr uint32_t kTopK = 2;

inline float weight_of(uint32_t layer, uint32_t expert) {
  return static_cast<float>(100 * (layer + 1) + expert);
}

// Places for experts that consist of one number each, in a real file: expert(x) = x * number.
class FakePlaces : public ExpertPlaces {
 public:
  enum class Step { kReadRequest, kArrived, kRun, kAdd };

  FakePlaces(uint32_t count, const std::string& path, size_t blob_bytes)
      : path_(path), fd_(open_read(path)), blob_bytes_(blob_bytes) {
    while (places_.size() < count) places_.push_back({AlignedBuffer(blob_bytes)});
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
    return static_cast<uint32_t>(std::count_if(
        places_.begin(), places_.end(), [](const Place& place) { return place.given_back; }));
  }

  uint32_t count() const override { return static_cast<uint32_t>(places_.size()); }
  void add(uint32_t most) override {
    EXPECT_GE(most, 1u);
    may_fail(Step::kAdd);
    places_.push_back({AlignedBuffer(blob_bytes_)});
  }
  void give_back(uint32_t place) override {
    Place& at = places_.at(place);
    std::memset(at.buffer.data(), 0, blob_bytes_);
    at.ready = false;
    at.given_back = true;
  }
  ReadRequest read_request(const ExpertKey& key, uint32_t place) override {
    may_fail(Step::kReadRequest);
    requested_.push_back(key);
    Place& at = places_.at(place);
    at.ready = at.given_back = false;
    ReadRequest request;
    request.fd = fd_.get();
    request.offset = (key.layer * kExperts + key.expert) * blob_bytes_;
    request.length = request.payload_bytes = blob_bytes_;
    request.destination = at.buffer.data();
    request.file = &path_;
    return request;
  }
  void arrived(const ExpertKey& key, uint32_t place) override {
    may_fail(Step::kArrived);
    arrived_.push_back(key);
    places_.at(place).ready = true;
  }
  void run(uint32_t place, const float* x, uint32_t rows, float* y) override {
    may_fail(Step::kRun);
    ASSERT_TRUE(places_.at(place).ready) << "ran before its bytes were there";
    float weight;
    std::memcpy(&weight, places_[place].buffer.data(), sizeof weight);
    for (uint32_t row = 0; row < rows; ++row) y[row] = x[row] * weight;
  }

 private:
  struct Place {
    AlignedBuffer buffer;
    bool ready = false, given_back = false;
  };
  void may_fail(Step step) {
    if (!armed_ || step != failing_ || calls_left_-- > 0) return;
    armed_ = false;
    throw Error(ErrorCode::kRuntime, "", "this place was told to fail");
  }

  std::string path_;
  UniqueFd fd_;
  size_t blob_bytes_;
  std::vector<ExpertKey> requested_, arrived_;
  std::vector<Place> places_;
  Step failing_ = Step::kRun;
  uint32_t calls_left_ = 0;
  bool armed_ = false;
};

enum class Phase { kDecode, kBatch, kLastBatch };

// A stream with the cache that decides which experts leave, and a naive cache that sees the same
// tokens one by one.
class StreamBench {
 public:
  // Places for all layers together or for each layer, and `spare` places that the cache does not
  // use.
  StreamBench(uint32_t places, unsigned lanes, bool overlap = true, bool global = true,
              uint32_t spare = 0, size_t blob_bytes = kBlobAlignment)
      : blob_bytes_(blob_bytes),
        naive_(global ? 1 : kLayers, NaiveCache(places)),
        spare_(spare),
        map_({0, 1, 2}, kExperts) {
    write_experts();
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
    std::vector<std::unique_ptr<ExpertPlaces>> by_variant;
    by_variant.push_back(
        std::make_unique<FakePlaces>(places * (global ? 1 : kLayers) + spare, path(), blob_bytes));
    places_ = static_cast<FakePlaces*>(by_variant[0].get());
    stream_ = std::make_unique<ExpertStream>(std::move(by_variant), options);
  }

  // A token of random experts, in all layers or one.
  void decode(std::mt19937* random) {
    for (uint32_t layer = 0; layer < kLayers; ++layer) decode_one(random, layer);
    expect_same_cache();
  }
  void decode_one(std::mt19937* random, uint32_t layer) {
    const std::vector<uint32_t> chosen = choose(random);
    run_jobs(layer, chosen);
    access(layer, chosen);
  }
  void decode_every_expert() {
    for (uint32_t layer = 0; layer < kLayers; ++layer)
      for (uint32_t expert = 0; expert < kExperts; ++expert)
        run_jobs(layer, {expert, (expert + 1) % kExperts});
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
  void fill(const std::vector<std::vector<uint32_t>>& best,
            const Progress& progress = ignore_progress) {
    cache_->fill(best);
    stream_->load(cache_->by_recency(), progress);
  }

  void fill_in_background(const std::vector<std::vector<uint32_t>>& best) {
    cache_->fill(best);
    stream_->fill(cache_->by_recency());
  }

  void run_jobs(uint32_t layer, const std::vector<uint32_t>& experts, uint32_t rows = 1,
                Phase phase = Phase::kDecode) {
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
    bytes_wasted_ = stream_->bytes_wasted();
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
  // All slots are in this state.
  void expect_slots(SlotState state) const {
    for (const Slot& slot : stream_->residency(0)) EXPECT_EQ(slot.state, state);
  }

  // `capacity`: of each pool.
  void resize(uint32_t capacity) {
    for (NaiveCache& pool : naive_) pool.resize(capacity);
    cache_->resize(capacity);
    const uint32_t places = capacity * static_cast<uint32_t>(naive_.size()) + spare_;
    stream_->resize(Span<const uint32_t>(&places, 1), cache_->by_recency());
  }

  // From now on reads fail, until write_experts().
  void truncate(off_t bytes) { ASSERT_EQ(::truncate(path().c_str(), bytes), 0); }
  void write_experts() {
    std::string content(kLayers * kExperts * blob_bytes_, '\0');
    for (uint32_t layer = 0; layer < kLayers; ++layer)
      for (uint32_t expert = 0; expert < kExperts; ++expert) {
        const float weight = weight_of(layer, expert);
        std::memcpy(&content[(layer * kExperts + expert) * blob_bytes_], &weight, sizeof weight);
      }
    write_file(path(), content);
  }

  const ResidencyMap& map() const { return map_; }
  std::string path() const { return folder_.file("experts"); }
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
  const size_t blob_bytes_;
  std::vector<NaiveCache> naive_;  // a pool each
  std::unique_ptr<LogicalCache> cache_;
  const uint32_t spare_;
  ResidencyMap map_;
  FakePlaces* places_;
  std::unique_ptr<ExpertStream> stream_;
  uint32_t hits_ = 0, misses_ = 0;
  uint64_t bytes_read_ = 0, bytes_wasted_ = 0;
};

}  // namespace moe_mobile::testing
