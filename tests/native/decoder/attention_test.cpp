// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "decoder/attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "base/expect_error.h"
#include "decoder/attention_case.h"
#include "decoder/attention_tile.h"

namespace moe_mobile {
namespace {

using testing::attend;
using testing::AttentionCase;

TEST(Attention, EqualsTheDefinition) {
  std::mt19937 random(71);
  for (int round = 0; round < 60; ++round) {
    const auto kv_heads = static_cast<uint32_t>(1 + random() % 3);
    const auto group = static_cast<uint32_t>(1 + random() % 9);
    const auto dim = static_cast<uint32_t>(round < 40 ? 1 + random() % 40 : 64 + random() % 200);
    const auto context = static_cast<uint32_t>(1 + random() % 200);
    const bool float32 = random() % 2 == 0;
    const auto window = static_cast<uint32_t>(random() % 2 == 0 ? 0 : 1 + random() % 220);
    AttentionCase sample(KvShape{kv_heads, dim, context, float32}, group, 100 + round);
    std::vector<float> out(sample.row_size());
    for (int query = 0; query < 4; ++query) {
      const auto position = static_cast<uint32_t>(query == 0 ? context - 1 : random() % context);
      attend(sample.call(window), position, &sample.q[position * sample.row_size()], out.data());
      const std::vector<double> expected = sample.expected(position, window);
      for (size_t i = 0; i < out.size(); ++i) {
        ASSERT_NEAR(out[i], expected[i], 1e-5)
            << "kv " << kv_heads << " group " << group << " dim " << dim << " at " << position
            << " window " << window << " float32 " << float32;
      }
    }
  }
}

TEST(Attention, PrefillEqualsDecodeBitForBit) {
  std::mt19937 random(72);
  for (const uint32_t window : {0u, 1u, 50u, 64u}) {
    for (const uint32_t group : {1u, 2u, 3u, 4u, 7u}) {
      AttentionCase sample(KvShape{2, 24, 150, group % 2 == 0}, group, 200 + group);
      const size_t row = sample.row_size();
      std::vector<float> one_by_one(150 * row), batched(150 * row);
      for (uint32_t p = 0; p < 150; ++p) {
        attend(sample.call(window), p, &sample.q[p * row], &one_by_one[p * row]);
      }
      for (uint32_t first = 0; first < 150;) {
        const auto count = static_cast<uint32_t>(std::min<size_t>(1 + random() % 60, 150 - first));
        attend_batch(sample.call(window), first, count, &sample.q[first * row],
                     &batched[first * row]);
        first += count;
      }
      ASSERT_EQ(std::memcmp(one_by_one.data(), batched.data(), 4 * batched.size()), 0)
          << "window " << window << " group " << group;
    }
  }
}

// Every implementation that this CPU can run, not only the one chosen at run time.
TEST(Attention, AllPathsAgree) {
  std::mt19937 random(73);
  std::normal_distribution<float> normal;
  int compared = 0;
  for (const bool float32 : {false, true}) {
    const detail::AttendTile portable = detail::attend_tile_portable(float32);
    for (const auto other :
         {detail::attend_tile_avx2(float32), detail::attend_tile_neon(float32)}) {
      if (other == nullptr) continue;
      for (uint32_t heads = 1; heads <= detail::kTileHeads; ++heads) {
        for (const uint32_t stride : {8u, 16u, 40u, 128u, 136u}) {
          const auto rows = static_cast<uint32_t>(1 + random() % 300);
          std::vector<float> q(heads * stride), floats(rows * stride);
          std::vector<uint16_t> halves(floats.size());
          for (float& x : q) x = normal(random);
          for (float& x : floats) x = normal(random);
          floats_to_halves(floats.data(), halves.data(), floats.size());
          std::vector<float> a(q.size()), b(q.size());
          detail::AttentionTile tile;
          tile.q = q.data();
          tile.heads = heads;
          tile.keys = tile.values =
              float32 ? static_cast<const void*>(floats.data()) : halves.data();
          tile.rows = rows;
          tile.begin = static_cast<uint32_t>(random() % rows);
          tile.end = rows;
          tile.stride = stride;
          tile.out = a.data();
          portable(tile);
          tile.out = b.data();
          other(tile);
          for (size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], 2e-5);
          ++compared;
        }
      }
    }
  }
  if (compared == 0) GTEST_SKIP() << "this CPU has the portable path only";
}

// A much larger score must get all the weight, and scores far apart must not overflow.
TEST(Attention, HandlesExtremeScores) {
  KvCache cache(KvShape{1, 8, 200, true});
  std::vector<float> k(200 * 8, 0.0f), v(200 * 8);
  for (size_t i = 0; i < v.size(); ++i) v[i] = static_cast<float>(i);
  for (int t = 0; t < 200; ++t) k[t * 8] = t == 130 ? 1000.0f : -1000.0f * static_cast<float>(t);
  cache.append(0, 200, k.data(), v.data());
  AttentionCall call;
  call.cache = &cache;
  call.num_heads = 1;
  std::vector<float> q(8, 0.0f), out(8);
  q[0] = 100;
  attend(call, 199, q.data(), out.data());
  for (int d = 0; d < 8; ++d) EXPECT_EQ(out[d], v[130 * 8 + d]);
  q[0] = 0;  // all scores equal: the mean
  attend(call, 199, q.data(), out.data());
  for (int d = 0; d < 8; ++d) EXPECT_NEAR(out[d], 8 * 99.5 + d, 1e-3);
  q[0] = std::numeric_limits<float>::quiet_NaN();  // must stay visible
  attend(call, 199, q.data(), out.data());
  EXPECT_TRUE(std::isnan(out[0]));
}

TEST(Attention, AWindowHidesThePositionsBeforeIt) {
  AttentionCase sample(KvShape{1, 16, 100, false}, 2, 5);
  // What lies outside the window may be anything, even unwritten.
  KvCache partial(KvShape{1, 16, 100, false});
  std::vector<float> rows(10 * 16, 0.5f), out(32);
  partial.append(90, 10, rows.data(), rows.data());
  AttentionCall call = sample.call(10);
  call.cache = &partial;
  attend(call, 99, sample.q.data(), out.data());
  for (const float x : out) EXPECT_NEAR(x, 0.5f, 1e-6);
}

TEST(Attention, RefusesShapesThatDoNotFit) {
  AttentionCase sample(KvShape{2, 8, 10, false}, 2, 6);
  std::vector<float> out(sample.row_size() * 10);
  AttentionCall call = sample.call(0);
  EXPECT_ERROR(attend(call, 10, sample.q.data(), out.data()), ErrorCode::kUsage, "attention");
  EXPECT_ERROR(attend_batch(call, 5, 6, sample.q.data(), out.data()), ErrorCode::kUsage, "fit");
  call.num_heads = 3;
  EXPECT_ERROR(attend(call, 0, sample.q.data(), out.data()), ErrorCode::kUsage, "attention");
  // Wrapped caches hold a window and a batch together, in whole blocks.
  AttentionCase ring(KvShape{2, 8, 64, false}, 2, 6);
  std::vector<float> more(ring.row_size() * 64);
  const auto attend_ring = [&](uint32_t window, uint32_t count) {
    attend_batch(ring.call(window), 100, count, ring.q.data(), more.data());
  };
  attend_ring(1, 64);
  attend_ring(60, 5);
  EXPECT_ERROR(attend_ring(60, 6), ErrorCode::kUsage, "fit");
  EXPECT_ERROR(attend_ring(0, 1), ErrorCode::kUsage, "fit");
  AttentionCase odd(KvShape{2, 8, 65, false}, 2, 6);
  EXPECT_ERROR(attend(odd.call(4), 65, odd.q.data(), more.data()), ErrorCode::kUsage, "fit");
}

TEST(Attention, RingsHoldAWindowAndABatch) {
  EXPECT_EQ(ring_rows(1, 1), 64u);
  EXPECT_EQ(ring_rows(1, 64), 64u);
  EXPECT_EQ(ring_rows(2, 64), 128u);
  EXPECT_EQ(ring_rows(4096, 256), 4352u);
}

}  // namespace
}  // namespace moe_mobile
