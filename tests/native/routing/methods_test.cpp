// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>

#include "routing/make_router.h"

namespace moe_mobile {
namespace {

using Indices = std::vector<uint32_t>;
using Mask = std::vector<uint8_t>;
using Logits = std::vector<float>;

Router router_of(uint32_t num_experts, uint32_t top_k, const std::string& routing) {
  RouterSpec spec;
  spec.num_experts = num_experts;
  spec.top_k = top_k;
  spec.renormalize = true;
  return testing::make_router(spec, routing);
}

Selection decode(const std::string& routing, uint32_t top_k, const Logits& logits,
                 const Mask& cached) {
  Selection out;
  router_of(static_cast<uint32_t>(logits.size()), top_k, routing)
      .decode(0, logits.data(), cached.data(), &out);
  return out;
}

// Base order 5 4 3 2 1 0; 0, 2 and 3 are cached.
const Logits kRising = {0, 1, 2, 3, 4, 5};
const Mask kCached = {1, 0, 1, 1, 0, 0};

TEST(MaxRank, PrefersCachedExpertsAmongTheMBest) {
  const auto experts = [](const char* routing) {
    return decode(routing, 3, kRising, kCached).experts;
  };
  EXPECT_EQ(experts("exact"), (Indices{5, 4, 3}));
  EXPECT_EQ(experts("max-rank:3,J=0"), (Indices{5, 4, 3}));
  EXPECT_EQ(experts("max-rank:4,J=0"), (Indices{5, 3, 2}));
  EXPECT_EQ(experts("max-rank:4,J=1"), (Indices{5, 3, 2}));
  EXPECT_EQ(experts("max-rank:4"), (Indices{5, 4, 3}));
  EXPECT_EQ(experts("max-rank:5,J=0"), (Indices{5, 3, 2}));
  EXPECT_EQ(experts("max-rank:6,J=0"), (Indices{3, 2, 0}));
  EXPECT_EQ(experts("max-rank:99,J=0"), (Indices{3, 2, 0}));
  EXPECT_EQ(decode("max-rank:4,J=1", 3, kRising, kCached).changed, 1u);
  EXPECT_EQ(decode("max-rank:6,J=0", 3, kRising, kCached).changed, 2u);
}

TEST(Cumulative, WidensTheWindowUntilTheProbabilitiesReachP) {
  // Probabilities 0.4, 0.3, 0.2 and 0.1.
  const Logits logits = {std::log(4.f), std::log(3.f), std::log(2.f), std::log(1.f)};
  const Mask last_two = {0, 0, 1, 1};
  const auto experts = [&](const char* routing) {
    return decode(routing, 2, logits, last_two).experts;
  };
  EXPECT_EQ(experts("cumulative:0.69,J=0"), (Indices{0, 1}));
  EXPECT_EQ(experts("cumulative:0.8,J=0"), (Indices{0, 2}));
  EXPECT_EQ(experts("cumulative:0.95,J=0"), (Indices{2, 3}));
  EXPECT_EQ(experts("cumulative:1,J=0"), (Indices{2, 3}));
  EXPECT_EQ(experts("cumulative:1"), (Indices{0, 2}));
}

TEST(CachePrior, AddsAShareOfTheRangeToCachedExperts) {
  // The range is 5.
  const auto experts = [](const char* routing) {
    return decode(routing, 3, kRising, kCached).experts;
  };
  EXPECT_EQ(experts("cache-prior:0,J=0"), (Indices{5, 4, 3}));
  EXPECT_EQ(experts("cache-prior:0.3,J=0"), (Indices{5, 4, 3}));
  // 3 and 2 rise to 5.1 and 4.1.
  EXPECT_EQ(experts("cache-prior:0.42,J=0"), (Indices{5, 3, 2}));
  EXPECT_EQ(experts("cache-prior:0.42,J=2"), (Indices{5, 4, 3}));
  // 2 rises to exactly 4, and the lower index goes first.
  EXPECT_EQ(experts("cache-prior:0.4,J=0"), (Indices{5, 3, 2}));
  EXPECT_EQ(experts("cache-prior:0.9,J=0"), (Indices{5, 3, 2}));
  EXPECT_EQ(experts("cache-prior:1.1,J=0"), (Indices{3, 2, 0}));
}

TEST(CachePrior, TakesTheMeanRangeOfTheSequenceWithThePrompt) {
  Router router = router_of(3, 1, "cache-prior:0.5,J=0");
  const Mask cached = {1, 0, 0};
  const Logits wide = {0, 8, 0}, narrow = {0, 2, 0};
  Selection out;
  router.prefill(0, wide.data(), &out);
  EXPECT_EQ(out.experts, (Indices{1}));
  // The mean of 8 and 2 is 5, and half of it beats 2.
  router.decode(0, narrow.data(), cached.data(), &out);
  EXPECT_EQ(out.experts, (Indices{0}));
  router.reset();
  router.decode(0, narrow.data(), cached.data(), &out);
  EXPECT_EQ(out.experts, (Indices{1}));
}

TEST(CachePrior, WeighsWithTheOriginalLogits) {
  const Selection out = decode("cache-prior:1.1,J=1", 2, {0, 1, 2}, {1, 0, 0});
  EXPECT_EQ(out.experts, (Indices{2, 0}));
  EXPECT_NEAR(out.weights[1], 1 / (1 + std::exp(2.0)), 1e-7);
}

TEST(Methods, LeaveFirstLayersExact) {
  RouterSpec spec;
  spec.num_experts = 6;
  spec.top_k = 3;
  Router router = testing::make_router(spec, "max-rank:6,J=0,first=1+drop-cold:3", 2);
  const Mask cold(6, 0);
  Selection out;
  router.decode(0, kRising.data(), kCached.data(), &out);
  EXPECT_EQ(out.experts, (Indices{5, 4, 3}));
  EXPECT_EQ(out.dropped, (Mask{0, 0, 0}));
  router.decode(1, kRising.data(), kCached.data(), &out);
  EXPECT_EQ(out.experts, (Indices{3, 2, 0}));
  router.decode(1, kRising.data(), cold.data(), &out);
  EXPECT_EQ(out.dropped, (Mask{0, 1, 1}));
}

TEST(DropCold, DropsColdExpertsOfLittleMassAndKeepsTheSum) {
  // Shares 4/7, 2/7 and 1/7, against F/3.
  const Logits logits = {std::log(4.f), std::log(2.f), 0.f, -9.f};
  const auto dropped = [&](const char* routing, const Mask& cached) {
    return decode(routing, 3, logits, cached).dropped;
  };
  EXPECT_EQ(dropped("exact+drop-cold:0.4", {0, 0, 0, 0}), (Mask{0, 0, 0}));
  EXPECT_EQ(dropped("exact+drop-cold:0.5", {0, 0, 0, 0}), (Mask{0, 0, 1}));
  EXPECT_EQ(dropped("exact+drop-cold:0.5", {0, 0, 1, 0}), (Mask{0, 0, 0}));
  EXPECT_EQ(dropped("exact+drop-cold:0.9", {0, 0, 0, 0}), (Mask{0, 1, 1}));
  EXPECT_EQ(dropped("exact+drop-cold:3", {0, 0, 0, 0}), (Mask{0, 1, 1}));
  const Selection out = decode("exact+drop-cold:0.5", 3, logits, {0, 0, 0, 0});
  EXPECT_NEAR(out.weights[0], 2.0 / 3, 1e-6);
  EXPECT_NEAR(out.weights[1], 1.0 / 3, 1e-6);
  EXPECT_EQ(out.weights[2], 0.f);
}

}  // namespace
}  // namespace moe_mobile
