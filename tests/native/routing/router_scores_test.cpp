// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "routing/router_scores.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "base/expect_error.h"
#include "routing/make_router.h"

namespace moe_mobile {
namespace {

using Indices = std::vector<uint32_t>;

RouterSpec sigmoid_spec(uint32_t num_experts, uint32_t top_k) {
  RouterSpec spec;
  spec.num_experts = num_experts;
  spec.top_k = top_k;
  spec.scoring = Scoring::kSigmoid;
  return spec;
}

Selection exact(const RouterSpec& spec, const std::vector<float>& logits, uint32_t layer = 0) {
  const auto layers =
      static_cast<uint32_t>(std::max<size_t>(1, spec.bias.size() / spec.num_experts));
  Selection out;
  testing::make_router(spec, "exact", layers).prefill(layer, logits.data(), &out);
  return out;
}

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

TEST(RouterScores, SigmoidBiasChangesSelectionButNotWeights) {
  RouterSpec spec = sigmoid_spec(3, 2);
  spec.bias = {9, 9, 9, 0.5, 0, 0};  // of two layers
  const Selection plain = exact(spec, {0, 1, 2}, 0);
  EXPECT_EQ(plain.experts, (Indices{2, 1}));
  // 0.5 + 0.5 against 0.73 and 0.88.
  const Selection out = exact(spec, {0, 1, 2}, 1);
  EXPECT_EQ(out.experts, (Indices{0, 2}));
  EXPECT_NEAR(out.weights[0], 0.5, 1e-7);
  EXPECT_NEAR(out.weights[1], sigmoid(2), 1e-7);
  spec.renormalize = true;
  spec.scale = 2.5;
  EXPECT_NEAR(exact(spec, {0, 1, 2}, 1).weights[0], 2.5 * 0.5 / (0.5 + sigmoid(2)), 1e-6);
}

TEST(RouterScores, SigmoidGroupsScoreTheSumOfTheirTwoBest) {
  RouterSpec spec = sigmoid_spec(6, 2);
  spec.groups = 2;
  // 0.95 + 0.5 loses against 0.88 + 0.88.
  const std::vector<float> logits = {3, 0, 0, 2, 2, -9};
  spec.top_groups = 2;
  EXPECT_EQ(exact(spec, logits).experts, (Indices{0, 3}));
  spec.top_groups = 1;
  EXPECT_EQ(exact(spec, logits).experts, (Indices{3, 4}));
}

TEST(RouterScores, LogitGroupsScoreTheirBest) {
  RouterSpec spec;
  spec.num_experts = 6;
  spec.top_k = 2;
  spec.groups = 2;
  const std::vector<float> logits = {3, 0, 0, 2, 2, -9};
  spec.top_groups = 1;
  const Selection out = exact(spec, logits);
  EXPECT_EQ(out.experts, (Indices{0, 1}));
  // The softmax is over all, as in DeepSeek-V2.
  const double sum = std::exp(3.0) + 2 + 2 * std::exp(2.0) + std::exp(-9.0);
  EXPECT_NEAR(out.weights[0], std::exp(3.0) / sum, 1e-6);
}

TEST(RouterScores, ExpertsOfOtherGroupsAreNeverSelected) {
  RouterSpec spec = sigmoid_spec(6, 2);
  spec.groups = 2;
  spec.top_groups = 1;
  const std::vector<float> logits = {3, 0, 0, 2, 2, -9};
  const std::vector<uint8_t> cached = {1, 1, 1, 0, 0, 1};
  for (const char* routing : {"max-rank:6,J=0", "cumulative:1,J=0", "cache-prior:100,J=0"}) {
    Selection out;
    testing::make_router(spec, routing).decode(0, logits.data(), cached.data(), &out);
    EXPECT_EQ(out.experts, (Indices{3, 5})) << routing;
  }
}

RouterSpec relu_spec(uint32_t num_experts, uint32_t top_k) {
  RouterSpec spec = sigmoid_spec(num_experts, top_k);
  spec.scoring = Scoring::kRelu;
  return spec;
}

TEST(RouterScores, ReluSelectsLogitsAboveZero) {
  const RouterSpec spec = relu_spec(5, 3);
  const Selection two = exact(spec, {0.5f, -1, 0, 2, -3});
  EXPECT_EQ(two.experts, (Indices{3, 0}));
  EXPECT_EQ(two.weights, (std::vector<float>{2, 0.5f}));
  EXPECT_EQ(two.dropped.size(), 2u);
  EXPECT_EQ(exact(spec, {4, 3, 2, 1, 5}).experts, (Indices{4, 0, 1}));
  const Selection none = exact(spec, {0, -1, -0.f, -2, -3});
  EXPECT_TRUE(none.experts.empty());
  EXPECT_TRUE(none.weights.empty());
}

TEST(RouterScores, MethodsChooseAmongExpertsThatReluAllows) {
  const RouterSpec spec = relu_spec(6, 2);
  const std::vector<uint8_t> cached = {1, 1, 0, 1, 0, 0};
  for (const char* routing : {"exact", "max-rank:6,J=1", "cumulative:1,J=1", "cache-prior:100,J=1",
                              "cache-prior:100,J=0", "exact+drop-cold:1"}) {
    Router router = testing::make_router(spec, routing);
    const auto decode = [&](const std::vector<float>& logits) {
      Selection out;
      router.decode(0, logits.data(), cached.data(), &out);
      return out;
    };
    EXPECT_TRUE(decode({-1, -1, 0, -2, -1, -1}).experts.empty()) << routing;
    EXPECT_EQ(decode({-1, -1, 3, -2, -1, -1}).experts, (Indices{2})) << routing;
    const bool lossy = std::string(routing).find("exact") != 0;
    // Three experts have a logit above 0: the last one is cached, the second one is not.
    const Selection three = decode({1, -1, 3, -2, 2, -1});
    EXPECT_EQ(three.experts[0], 2u) << routing;
    EXPECT_EQ(three.experts[1], lossy ? 0u : 4u) << routing;
    EXPECT_EQ(three.changed, lossy ? 1u : 0u) << routing;
    EXPECT_EQ(three.weights[1] == 0, three.dropped[1] != 0) << routing;
  }
}

TEST(RouterScores, RefusesInvalidSpecs) {
  const auto refused = [](const RouterSpec& spec) {
    return testing::error_of([&] { check_router(spec, 1); }).setting();
  };
  RouterSpec spec = sigmoid_spec(6, 7);
  EXPECT_EQ(refused(spec), "top_k");
  spec.top_k = 4;
  spec.groups = 4;
  EXPECT_EQ(refused(spec), "groups");
  spec.groups = 2;
  EXPECT_EQ(refused(spec), "top_groups");
  spec.top_groups = 3;
  EXPECT_EQ(refused(spec), "top_groups");
  spec.top_groups = 2;
  spec.bias.assign(5, 0);
  EXPECT_EQ(refused(spec), "bias");
  spec.bias.assign(6, NAN);
  EXPECT_EQ(refused(spec), "bias");
  spec.bias.assign(6, 0);
  check_router(spec, 1);
  spec.scoring = Scoring::kSoftmax;
  EXPECT_EQ(refused(spec), "bias");
}

}  // namespace
}  // namespace moe_mobile
