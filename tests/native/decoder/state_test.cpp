// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
// What the attention mixer is made of: rotary embedding, KV cache, and the mixer itself.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "base/expect_error.h"
#include "base/half.h"
#include "decoder/attention_mixer.h"

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
  Rope rope(frequencies, 0.9, 8);  // the last two elements of a head stay
  rope.prepare(1000, 3);
  for (uint32_t row = 0; row < 3; ++row) {
    const std::vector<float> before = random_floats(16, row);
    std::vector<float> after = before;
    rope.apply(after.data(), 2, row);
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
    rope.apply(x.data(), 1, 0);
    rope.prepare(b, 1);
    rope.apply(y.data(), 1, 0);
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
  rope.apply(head.data(), 1, 0);
  EXPECT_EQ(head, (std::vector<float>{1, 2, 3, 4}));
  EXPECT_ERROR(Rope({1, 2, 3}, 1.0, 4), ErrorCode::kUsage, "more elements");
  Rope one({1.0}, 1.0, 4);
  EXPECT_ERROR(one.apply(head.data(), 1, 0), ErrorCode::kUsage, "prepared");
}

KvShape shape(uint32_t layers, uint32_t heads, uint32_t dim, uint32_t context, bool float32) {
  KvShape s;
  s.num_layers = layers;
  s.num_kv_heads = heads;
  s.head_dim = dim;
  s.context = context;
  s.float32 = float32;
  return s;
}

TEST(KvCache, KeepsEveryRowInItsPlace) {
  for (const bool float32 : {false, true}) {
    const KvShape s = shape(3, 2, 5, 20, float32);
    KvCache cache(s);
    EXPECT_EQ(cache.stride(), 8u);
    EXPECT_EQ(cache.bytes(), 3u * 2 * 2 * 20 * 8 * (float32 ? 4 : 2));
    std::vector<std::vector<float>> k, v;
    for (uint32_t layer = 0; layer < 3; ++layer) {
      k.push_back(random_floats(20 * 10, layer));
      v.push_back(random_floats(20 * 10, 10 + layer));
      for (uint32_t first = 0; first < 20; first += 4) {  // 4 rows at a time
        cache.append(layer, first, 4, &k[layer][first * 10], &v[layer][first * 10]);
      }
    }
    const auto read = [&](const void* rows, size_t i) {
      return float32 ? static_cast<const float*>(rows)[i]
                     : half_to_float(static_cast<const uint16_t*>(rows)[i]);
    };
    const auto rounded = [&](float x) { return float32 ? x : half_to_float(float_to_half(x)); };
    for (uint32_t layer = 0; layer < 3; ++layer) {
      for (uint32_t head = 0; head < 2; ++head) {
        for (uint32_t t = 0; t < 20; ++t) {
          for (uint32_t d = 0; d < 8; ++d) {
            const size_t from = (t * 2 + head) * 5 + d;
            ASSERT_EQ(read(cache.keys(layer, head), t * 8 + d),
                      d < 5 ? rounded(k[layer][from]) : 0);
            ASSERT_EQ(read(cache.values(layer, head), t * 8 + d),
                      d < 5 ? rounded(v[layer][from]) : 0);
          }
        }
      }
    }
  }
}

TEST(KvCache, RefusesPositionsBeyondTheContext) {
  KvCache cache(shape(1, 1, 8, 4, false));
  const std::vector<float> rows(5 * 8);
  cache.append(0, 3, 1, rows.data(), rows.data());
  EXPECT_ERROR(cache.append(0, 4, 1, rows.data(), rows.data()), ErrorCode::kUsage,
               "position 5 is beyond the KV cache's context of 4");
  EXPECT_ERROR(cache.append(0, 0, 5, rows.data(), rows.data()), ErrorCode::kUsage, "context");
  EXPECT_ERROR(cache.append(0, 0xffffffff, 2, rows.data(), rows.data()), ErrorCode::kUsage, "4");
  EXPECT_ERROR(cache.append(1, 0, 1, rows.data(), rows.data()), ErrorCode::kUsage, "KV cache");
}

TEST(KvCache, AbsurdSizesAreErrors) {
  const uint32_t most = std::numeric_limits<uint32_t>::max();
  EXPECT_ERROR(KvCache::bytes_for(shape(most, most, 4096, most, true)), ErrorCode::kBudget,
               "larger");
  EXPECT_ERROR(KvCache(shape(4096, 4096, 4096, 1u << 20, true)), ErrorCode::kBudget, "KV cache");
  EXPECT_ERROR(KvCache(shape(1, 1, 1, 0, true)), ErrorCode::kUsage, "zero");
}

uint64_t resident_bytes(const KvCache& cache) {
  const auto page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  std::vector<unsigned char> pages(cache.bytes() / page);
  // The first layer's first keys are where the cache begins.
  EXPECT_EQ(::mincore(const_cast<void*>(cache.keys(0, 0)), cache.bytes(), pages.data()), 0);
  return page * static_cast<uint64_t>(
                    std::count_if(pages.begin(), pages.end(), [](int p) { return (p & 1) != 0; }));
}

TEST(KvCache, TakesMemoryAsItFills) {
  KvCache cache(shape(4, 2, 128, 65536, false));  // 256 MiB
  EXPECT_EQ(resident_bytes(cache), 0u);
  const std::vector<float> rows(1024 * 256, 1.0f);
  for (uint32_t layer = 0; layer < 4; ++layer) {
    cache.append(layer, 0, 1024, rows.data(), rows.data());
  }
  EXPECT_EQ(resident_bytes(cache), cache.bytes() / 64);
  cache.clear();
  EXPECT_EQ(resident_bytes(cache), 0u);
}

Manifest manifest() {
  Manifest m;
  m.num_layers = 2;
  m.context_length = 64;
  m.attention.num_heads = 4;
  m.attention.num_kv_heads = 2;
  m.attention.head_dim = 6;
  m.attention.scale = 0.4;
  m.attention.inverse_frequencies = {1.0, 0.1};
  m.layers.resize(2);
  m.layers[1].window = 5;
  return m;
}

TEST(AttentionMixer, BatchesEqualSingleSteps) {
  AttentionMixer batched(manifest(), 64), stepped(manifest(), 64);
  const std::vector<float> q = random_floats(30 * 24, 1), k = random_floats(30 * 12, 2);
  const std::vector<float> v = random_floats(30 * 12, 3);
  for (uint32_t layer = 0; layer < 2; ++layer) {
    std::vector<float> q1 = q, k1 = k, out1(q.size()), q2 = q, k2 = k, out2(q.size());
    batched.begin(0, 30);
    batched.run(layer, q1.data(), k1.data(), v.data(), out1.data(), serial_for);
    for (uint32_t p = 0; p < 30; ++p) {
      stepped.begin(p, 1);
      stepped.run(layer, &q2[p * 24], &k2[p * 12], &v[p * 12], &out2[p * 24], serial_for);
    }
    EXPECT_EQ(std::memcmp(out1.data(), out2.data(), 4 * out1.size()), 0);
    // Rotation, cache and window together, by definition, for the last position.
    Rope rope({1.0, 0.1}, 1.0, 6);
    for (uint32_t head = 0; head < 4; ++head) {
      std::vector<double> weights, expected(6);
      double total = 0;
      std::vector<float> query(&q[29 * 24 + head * 6], &q[29 * 24 + head * 6] + 6);
      rope.prepare(29, 1);
      rope.apply(query.data(), 1, 0);
      for (uint32_t t = layer == 0 ? 0 : 25; t < 30; ++t) {
        std::vector<float> key(&k[t * 12 + head / 2 * 6], &k[t * 12 + head / 2 * 6] + 6);
        rope.prepare(t, 1);
        rope.apply(key.data(), 1, 0);
        double score = 0;
        for (int d = 0; d < 6; ++d) score += static_cast<double>(query[d]) * key[d];
        const double weight = std::exp(0.4 * score);
        total += weight;
        for (int d = 0; d < 6; ++d) expected[d] += weight * v[t * 12 + head / 2 * 6 + d];
      }
      for (int d = 0; d < 6; ++d) {
        EXPECT_NEAR(out1[29 * 24 + head * 6 + d], expected[d] / total, 3e-3);  // half precision
      }
    }
  }
}

TEST(AttentionMixer, ChecksItsContext) {
  EXPECT_ERROR(AttentionMixer(manifest(), 65), ErrorCode::kUsage, "1 to 64");
  EXPECT_ERROR(AttentionMixer(manifest(), 0), ErrorCode::kUsage, "1 to 64");
  AttentionMixer mixer(manifest(), 10);
  EXPECT_EQ(mixer.state_bytes(), 2u * 2 * 2 * 10 * 8 * 2);
  EXPECT_EQ(AttentionMixer::state_bytes_for(manifest(), 10), mixer.state_bytes());
  mixer.begin(0, 10);
  EXPECT_ERROR(mixer.begin(10, 1), ErrorCode::kUsage, "full");
  EXPECT_ERROR(mixer.begin(0, 11), ErrorCode::kUsage, "full");
}

}  // namespace
}  // namespace moe_mobile
