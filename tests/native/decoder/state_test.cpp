// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
//
// The parts of the attention mixer: rotary embedding and KV cache.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "base/expect_error.h"
#include "base/half.h"
#include "decoder/kv_cache.h"
#include "decoder/rope.h"

namespace moe_mobile {
namespace {

std::vector<float> random_floats(size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& x : values) x = normal(random);
  return values;
}

TEST(Rope, RotatesHalfSplitPairs) {
  const std::vector<double> frequencies{1.0, 0.1, 0.01};
  Rope rope(frequencies, 0.9, 8);  // the last two elements of a head are not rotated
  rope.prepare(1000, 3);
  for (uint32_t row = 0; row < 3; ++row) {
    const std::vector<float> before = random_floats(16, row);
    std::vector<float> after = before;
    rope.apply(after.data(), 2, 1000 + row);
    for (int head = 0; head < 2; ++head) {
      for (int i = 0; i < 3; ++i) {
        const double angle = (1000.0 + row) * frequencies[i];
        const double a = before[head * 8 + i], b = before[head * 8 + 3 + i];
        EXPECT_NEAR(after[head * 8 + i], 0.9 * (a * std::cos(angle) - b * std::sin(angle)), 1e-6);
        EXPECT_NEAR(after[head * 8 + 3 + i], 0.9 * (b * std::cos(angle) + a * std::sin(angle)),
                    1e-6);
      }
      EXPECT_EQ(after[head * 8 + 6], before[head * 8 + 6]);
      EXPECT_EQ(after[head * 8 + 7], before[head * 8 + 7]);
    }
  }
}

TEST(Rope, ADotProductDependsOnTheDistanceOnly) {
  Rope rope({1.0, 0.3, 0.05, 0.001}, 1.0, 8);
  const std::vector<float> q = random_floats(8, 1), k = random_floats(8, 2);
  const auto dot_at = [&](uint32_t a, uint32_t b) {
    std::vector<float> x = q, y = k;
    rope.prepare(a, 1);
    rope.apply(x.data(), 1, a);
    rope.prepare(b, 1);
    rope.apply(y.data(), 1, b);
    double sum = 0;
    for (int i = 0; i < 8; ++i) sum += static_cast<double>(x[i]) * y[i];
    return sum;
  };
  EXPECT_NEAR(dot_at(7, 2), dot_at(30005, 30000), 1e-5);
  EXPECT_GT(std::fabs(dot_at(7, 2) - dot_at(7, 3)), 1e-3);
}

TEST(Rope, NoFrequenciesNoRotation) {
  Rope rope({}, 1.0, 4);
  rope.prepare(5, 1);
  std::vector<float> head{1, 2, 3, 4};
  rope.apply(head.data(), 1, 5);
  EXPECT_EQ(head, (std::vector<float>{1, 2, 3, 4}));
  EXPECT_ERROR(Rope({1, 2, 3}, 1.0, 4), ErrorCode::kUsage, "more elements");
  Rope one({1.0}, 1.0, 4);
  EXPECT_ERROR(one.apply(head.data(), 1, 0), ErrorCode::kUsage, "position 0 was not prepared");
  one.prepare(5, 2);
  EXPECT_ERROR(one.apply(head.data(), 1, 4), ErrorCode::kUsage, "prepared");
  EXPECT_ERROR(one.apply(head.data(), 1, 7), ErrorCode::kUsage, "prepared");
}

TEST(KvCache, KeepsEveryRowInItsPlace) {
  for (const bool float32 : {false, true}) {
    KvCache cache({2, 5, 20, float32});
    EXPECT_EQ(cache.stride(), 8u);
    EXPECT_EQ(cache.bytes(), 2u * 2 * 20 * 8 * (float32 ? 4 : 2));
    EXPECT_EQ(cache.row_bytes(), cache.bytes() / 20);
    const std::vector<float> k = random_floats(52 * 10, 1), v = random_floats(52 * 10, 2);
    const auto read = [&](const void* rows, size_t i) {
      return float32 ? static_cast<const float*>(rows)[i]
                     : half_to_float(static_cast<const uint16_t*>(rows)[i]);
    };
    const auto rounded = [&](float x) { return float32 ? x : half_to_float(float_to_half(x)); };
    const auto expect_positions = [&](uint32_t first, uint32_t count) {
      for (uint32_t head = 0; head < 2; ++head)
        for (uint32_t p = first; p < first + count; ++p)
          for (uint32_t d = 0; d < 8; ++d) {
            const size_t at = p % 20 * 8 + d, from = (p * 2 + head) * 5 + d;
            ASSERT_EQ(read(cache.keys(head), at), d < 5 ? rounded(k[from]) : 0);
            ASSERT_EQ(read(cache.values(head), at), d < 5 ? rounded(v[from]) : 0);
          }
    };
    for (uint32_t first = 0; first < 20; first += 4)  // 4 rows at a time
      cache.append(first, 4, &k[first * 10], &v[first * 10]);
    expect_positions(0, 20);
    std::vector<uint8_t> saved(8 * cache.row_bytes());
    cache.append(20, 12, &k[200], &v[200]);  // over positions 0 to 11
    expect_positions(12, 20);
    cache.save(16, 8, saved.data());  // across the end
    cache.append(32, 20, &k[320], &v[320]);
    expect_positions(32, 20);
    cache.restore(16, 8, saved.data());
    expect_positions(16, 8);
    expect_positions(44, 12 - 4);
  }
}

TEST(KvCache, RefusesMorePositionsThanItHasRows) {
  KvCache cache({1, 8, 4, false});
  const std::vector<float> rows(5 * 8);
  cache.append(3, 4, rows.data(), rows.data());
  EXPECT_ERROR(cache.append(0, 5, rows.data(), rows.data()), ErrorCode::kUsage,
               "5 positions do not fit in a KV cache of 4");
}

TEST(KvCache, TellsWhatFloat16CannotHold) {
  const float inf = std::numeric_limits<float>::infinity();
  for (const float value : {65504.0f, 65519.0f, 65520.0f, -1e6f, inf, std::nanf("")}) {
    const bool fits = std::fabs(value) < 65520.0f;  // what is below is rounded to 65504
    for (const bool in_keys : {true, false}) {
      std::vector<float> k(8, 1.0f), v(8, 1.0f);
      (in_keys ? k : v)[5] = value;
      EXPECT_EQ(KvCache({1, 8, 4, false}).append(0, 1, k.data(), v.data()), fits) << value;
      EXPECT_TRUE(KvCache({1, 8, 4, true}).append(0, 1, k.data(), v.data())) << value;
    }
  }
}

TEST(KvCache, AbsurdSizesAreErrors) {
  const uint32_t most = std::numeric_limits<uint32_t>::max();
  EXPECT_ERROR(KvCache::bytes_for({most, 4096, most, true}), ErrorCode::kBudget, "larger");
  EXPECT_ERROR(KvCache({1u << 20, 4096, 1u << 24, true}), ErrorCode::kBudget, "KV cache");
  EXPECT_ERROR(KvCache({1, 1, 0, true}), ErrorCode::kUsage, "zero");
}

uint64_t resident_bytes(const KvCache& cache) {
  const auto page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  std::vector<unsigned char> pages(cache.bytes() / page);
  // The first head's keys are at the start of the cache.
  EXPECT_EQ(::mincore(const_cast<void*>(cache.keys(0)), cache.bytes(), pages.data()), 0);
  return page * static_cast<uint64_t>(
                    std::count_if(pages.begin(), pages.end(), [](int p) { return (p & 1) != 0; }));
}

TEST(KvCache, TakesMemoryAsItFills) {
  KvCache cache({8, 128, 65536, false});  // 256 MiB
  EXPECT_EQ(resident_bytes(cache), 0u);
  const std::vector<float> rows(1024 * 1024, 1.0f);
  cache.append(0, 1024, rows.data(), rows.data());
  EXPECT_EQ(resident_bytes(cache), cache.bytes() / 64);
  cache.clear();
  EXPECT_EQ(resident_bytes(cache), 0u);
}

}  // namespace
}  // namespace moe_mobile
