// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "decoder/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <random>

#include "base/expect_error.h"

namespace moe_mobile {
namespace {

SamplingSettings settings(float temperature, uint32_t top_k = 0, float top_p = 1,
                          uint64_t seed = 1) {
  SamplingSettings s;
  s.temperature = temperature;
  s.top_k = top_k;
  s.top_p = top_p;
  s.seed = seed;
  return s;
}

std::vector<float> random_logits(uint32_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 2);
  std::vector<float> logits(count);
  for (float& l : logits) l = normal(random);
  return logits;
}

TEST(Sampler, GreedyTakesTheLargestTiesToTheLower) {
  Sampler sampler(settings(0), 5);
  EXPECT_EQ(sampler.sample(std::vector<float>{1, 3, 2, 3, 0}.data()), 1u);
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(sampler.sample(std::vector<float>{-infinity, -1, -infinity, -2, -1}.data()), 1u);
}

// The probabilities by the documented rules, with a full sort.
std::map<uint32_t, double> definition(const std::vector<float>& logits, const SamplingSettings& s) {
  std::vector<uint32_t> order(logits.size());
  for (uint32_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(),
                   [&](uint32_t a, uint32_t b) { return logits[a] > logits[b]; });
  if (s.top_k > 0 && s.top_k < order.size()) order.resize(s.top_k);
  double total = 0;
  std::map<uint32_t, double> p;
  for (const uint32_t id : order) {
    total += p[id] = std::exp((static_cast<double>(logits[id]) - logits[order[0]]) / s.temperature);
  }
  double kept = 0;
  std::map<uint32_t, double> nucleus;
  for (const uint32_t id : order) {
    if (kept >= s.top_p * total) break;
    kept += nucleus[id] = p[id];
  }
  for (auto& entry : nucleus) entry.second /= kept;
  return nucleus;
}

// Pearson's test: a correct sampler exceeds this bound in one of 10^5 runs (Wilson-Hilferty).
TEST(Sampler, DrawsTheDocumentedDistribution) {
  constexpr int kDraws = 40000;
  const SamplingSettings cases[] = {settings(1),    settings(0.5f),       settings(2, 0, 1, 99),
                                    settings(1, 7), settings(1, 0, 0.8f), settings(1.5f, 12, 0.9f),
                                    settings(1, 1), settings(1, 0, 1e-6f)};
  unsigned seed = 0;
  for (const SamplingSettings& s : cases) {
    const std::vector<float> logits = random_logits(30, ++seed);
    const auto expected = definition(logits, s);
    Sampler sampler(s, 30);
    std::map<uint32_t, int> counts;
    for (int i = 0; i < kDraws; ++i) ++counts[sampler.sample(logits.data())];
    for (const auto& entry : counts) ASSERT_EQ(expected.count(entry.first), 1u) << entry.first;
    double statistic = 0, rare_expected = 0, rare_seen = 0;
    int cells = 0;
    for (const auto& [id, p] : expected) {
      if (p * kDraws < 10) {  // too rare for a cell of its own
        rare_expected += p * kDraws;
        rare_seen += counts[id];
        continue;
      }
      statistic += std::pow(counts[id] - p * kDraws, 2) / (p * kDraws);
      ++cells;
    }
    if (rare_expected >= 10) {
      statistic += std::pow(rare_seen - rare_expected, 2) / rare_expected;
      ++cells;
    }
    const double f = std::max(1, cells - 1);
    const double bound = f * std::pow(1 - 2 / (9 * f) + 4.26 * std::sqrt(2 / (9 * f)), 3);
    EXPECT_LT(statistic, bound) << "case " << seed;
  }
}

TEST(Sampler, EqualSeedsGiveEqualTokens) {
  const std::vector<float> logits = random_logits(1000, 5);
  const auto draw = [&](uint64_t seed) {
    Sampler sampler(settings(1, 0, 0.95f, seed), 1000);
    std::vector<uint32_t> tokens;
    for (int i = 0; i < 50; ++i) tokens.push_back(sampler.sample(logits.data()));
    return tokens;
  };
  EXPECT_EQ(draw(3), draw(3));
  EXPECT_NE(draw(3), draw(4));
}

// Pinned: the same on every platform and in every version.
TEST(Sampler, TokensArePinned) {
  std::vector<float> logits(64);
  for (int i = 0; i < 64; ++i) logits[i] = static_cast<float>((i * 37) % 64) / 16.0f;
  const auto draw = [&](const SamplingSettings& s) {
    Sampler sampler(s, 64);
    std::vector<uint32_t> tokens;
    for (int i = 0; i < 12; ++i) tokens.push_back(sampler.sample(logits.data()));
    return tokens;
  };
  EXPECT_EQ(draw(settings(1, 0, 1, 42)),
            (std::vector<uint32_t>{48, 12, 19, 22, 3, 56, 15, 50, 21, 38, 14, 31}));
  EXPECT_EQ(draw(settings(0.7f, 20, 0.9f, 7)),
            (std::vector<uint32_t>{12, 19, 55, 5, 31, 57, 31, 12, 38, 31, 19, 29}));
}

TEST(Sampler, NeverDrawsTokensOfZeroProbability) {
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> logits{-infinity, 0, -infinity, -1e30f, 3e38f, 3e38f};
  for (const float temperature : {1e-30f, 1.0f, 1e30f}) {
    Sampler sampler(settings(temperature), 6);
    for (int i = 0; i < 200; ++i) {
      const uint32_t token = sampler.sample(logits.data());
      EXPECT_TRUE(token != 0 && token != 2);
    }
  }
}

TEST(Sampler, RefusesInvalidSettings) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_ERROR(Sampler(settings(-1), 5), ErrorCode::kUsage, "temperature");
  EXPECT_ERROR(Sampler(settings(nan), 5), ErrorCode::kUsage, "temperature");
  EXPECT_ERROR(Sampler(settings(infinity), 5), ErrorCode::kUsage, "temperature");
  EXPECT_ERROR(Sampler(settings(1, 0, 0), 5), ErrorCode::kUsage, "top_p");
  EXPECT_ERROR(Sampler(settings(1, 0, 1.1f), 5), ErrorCode::kUsage, "top_p");
  EXPECT_ERROR(Sampler(settings(1, 0, nan), 5), ErrorCode::kUsage, "top_p");
  EXPECT_ERROR(Sampler(settings(1), 0), ErrorCode::kUsage, "vocabulary");
}

}  // namespace
}  // namespace moe_mobile
