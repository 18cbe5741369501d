// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "routing/top_k.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

namespace moe_mobile {
namespace {

TEST(TopK, EqualsAStableSort) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  const float infinity = std::numeric_limits<float>::infinity();
  for (int round = 0; round < 5000; ++round) {
    const uint32_t n = 1 + random() % 200, k = 1 + random() % std::min(n, 40u);
    std::vector<float> values(n);
    for (float& value : values) {
      value = normal(random);
      if (round % 4 == 1) value = std::round(value);  // ties, -0 and 0 among them
      if (round % 4 == 2) value *= 1e38f;
      if (round % 4 == 3 && random() % 2 == 0) value = -infinity;
    }
    std::vector<uint32_t> order(n), best(k);
    std::iota(order.begin(), order.end(), 0u);
    std::stable_sort(order.begin(), order.end(),
                     [&](uint32_t a, uint32_t b) { return values[a] > values[b]; });
    for (uint32_t rank = 0; rank < n; ++rank)
      ASSERT_EQ(rank_of(values.data(), n, order[rank]), rank);
    order.resize(k);
    top_k(values.data(), n, k, best.data());
    ASSERT_EQ(best, order) << n << " " << k;
    ASSERT_EQ(least_of(values.data(), n), *std::min_element(values.begin(), values.end()));
  }
}

TEST(TopK, FindsValuesThatAreNotFinite) {
  for (const uint32_t n : {1u, 7u, 8u, 9u, 40u}) {
    std::vector<float> values(n, 3e38f);
    EXPECT_EQ(first_not_finite(values.data(), n), n);
    for (uint32_t at = 0; at < n; ++at) {
      values[at] = at % 2 == 0 ? NAN : -INFINITY;
      EXPECT_EQ(first_not_finite(values.data(), n), at);
      values[at] = -3e38f;
    }
  }
}

}  // namespace
}  // namespace moe_mobile
