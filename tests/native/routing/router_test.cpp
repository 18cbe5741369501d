// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "routing/router.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "base/expect_error.h"
#include "routing/make_router.h"

namespace moe_mobile {
namespace {

using Indices = std::vector<uint32_t>;

Selection select(const std::vector<float>& logits, uint32_t top_k, bool renormalize) {
  RouterSpec spec;
  spec.num_experts = static_cast<uint32_t>(logits.size());
  spec.top_k = top_k;
  spec.renormalize = renormalize;
  Selection out;
  testing::make_router(spec, "exact").prefill(0, logits.data(), &out);
  return out;
}

TEST(Router, TiesGoToTheLowerIndex) {
  EXPECT_EQ(select({1.f, 1.f, 1.f, 1.f}, 3, true).experts, (Indices{0, 1, 2}));
  EXPECT_EQ(select({0.f, 7.f, 3.f, 7.f, 3.f}, 4, true).experts, (Indices{1, 3, 2, 4}));
  EXPECT_EQ(select({0.f, -0.f}, 2, true).experts, (Indices{0, 1}));
  // Logits decide, not probabilities that underflow to the same zero.
  EXPECT_EQ(select({-500.f, 0.f, -400.f}, 3, false).experts, (Indices{1, 2, 0}));
}

TEST(Router, HandlesLargeLogits) {
  const Selection s = select({3e38f, -3e38f, 2.9e38f}, 2, true);
  EXPECT_EQ(s.experts, (Indices{0, 2}));
  EXPECT_EQ(s.weights[0], 1.f);
  EXPECT_EQ(s.weights[1], 0.f);
}

TEST(Router, RefusesInvalidTopK) {
  EXPECT_ERROR(select({0.f}, 0, true), ErrorCode::kUsage, "0 of 1");
  EXPECT_ERROR(select({0.f}, 2, true), ErrorCode::kUsage, "2 of 1");
}

TEST(Router, EqualsTheDefinition) {
  std::mt19937 random(51);
  std::normal_distribution<float> normal(0, 2);
  Selection s;  // used again and again, as the engine does
  for (int round = 0; round < 2000; ++round) {
    const uint32_t n = 1 + random() % 130, k = 1 + random() % std::min(n, 12u);
    const bool renormalize = random() % 2 == 0;
    std::vector<float> logits(n);
    for (float& l : logits) {
      l = normal(random);
      if (round % 3 == 0) l = std::round(l);  // many ties
    }
    s = select(logits, k, renormalize);
    std::vector<double> p(n);
    double sum = 0;
    for (uint32_t e = 0; e < n; ++e) sum += p[e] = std::exp(static_cast<double>(logits[e]));
    Indices order(n);
    for (uint32_t e = 0; e < n; ++e) order[e] = e;
    std::stable_sort(order.begin(), order.end(),
                     [&](uint32_t a, uint32_t b) { return logits[a] > logits[b]; });
    double selected = 0;
    for (uint32_t r = 0; r < k; ++r) selected += p[order[r]];
    ASSERT_EQ(s.experts.size(), k);
    for (uint32_t r = 0; r < k; ++r) {
      ASSERT_EQ(s.experts[r], order[r]);
      ASSERT_NEAR(s.weights[r], p[order[r]] / (renormalize ? selected : sum), 2e-6);
    }
  }
}

}  // namespace
}  // namespace moe_mobile
