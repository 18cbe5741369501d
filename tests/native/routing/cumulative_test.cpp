// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include "routing/router.h"

namespace moe_mobile {
namespace {

struct Token {
  std::vector<float> logits;
  std::vector<uint32_t> order;  // best first
  std::vector<double> reached;  // sums of the first probabilities
  std::vector<uint8_t> cached;
};

Token random_token(std::mt19937* random, uint32_t n) {
  Token token;
  std::normal_distribution<float> normal(0, (*random)() % 2 == 0 ? 1.f : 4.f);
  for (uint32_t e = 0; e < n; ++e) {
    token.logits.push_back(normal(*random));
    if (n % 2 == 0) token.logits.back() = std::round(2 * token.logits.back()) / 2;  // ties
    token.cached.push_back((*random)() % 2);
  }
  token.order.resize(n);
  std::iota(token.order.begin(), token.order.end(), 0u);
  std::stable_sort(token.order.begin(), token.order.end(),
                   [&](uint32_t a, uint32_t b) { return token.logits[a] > token.logits[b]; });
  const double largest = token.logits[token.order[0]];
  double total = 0, reached = 0;
  for (const float z : token.logits) total += std::exp(z - largest);
  for (const uint32_t e : token.order)
    token.reached.push_back(reached += std::exp(token.logits[e] - largest) / total);
  return token;
}

// Algorithm 2, literally.
std::vector<uint32_t> plain_choice(const Token& token, uint32_t k, uint32_t guaranteed, double p) {
  const auto n = static_cast<uint32_t>(token.order.size());
  uint32_t window = 0;
  while (window < n && token.reached[window] < p) ++window;
  window = std::min(window + 1, n);
  std::vector<uint32_t> chosen(token.order.begin(), token.order.begin() + guaranteed);
  const auto take = [&](uint32_t end, bool only_cached) {
    for (uint32_t rank = guaranteed; rank < end && chosen.size() < k; ++rank) {
      const uint32_t e = token.order[rank];
      const bool taken = std::find(chosen.begin(), chosen.end(), e) != chosen.end();
      if (!taken && (!only_cached || token.cached[e] != 0)) chosen.push_back(e);
    }
  };
  take(window, true);
  take(n, false);
  std::sort(chosen.begin(), chosen.end());
  return chosen;
}

// Without adding up all probabilities in double, it decides as if it had.
TEST(Cumulative, DecidesAtTheThresholdToTheLastBit) {
  std::mt19937 random(3);
  for (int round = 0; round < 60; ++round) {
    const uint32_t n = 2 + random() % 40, k = 1 + random() % (n - 1), guaranteed = random() % k;
    const Token token = random_token(&random, n);
    for (uint32_t m = 0; m + 1 < n; ++m)
      for (const double off : {-1e-3, -2e-5, -1e-7, -1e-12, -0.0, 0.0, 1e-12, 1e-7, 2e-5, 1e-3}) {
        double p = token.reached[m] + off;
        if (off == 0 && !std::signbit(off)) p = std::nextafter(p, 1);
        if (p <= 0 || p >= 1) continue;
        RouterSpec spec;
        spec.num_experts = n;
        spec.top_k = k;
        RoutingOptions options = parse_routing("cumulative:0.5");
        options.value = p;
        options.guaranteed = guaranteed;
        Selection out;
        Router(spec, options, 1).decode(0, token.logits.data(), token.cached.data(), &out);
        std::sort(out.experts.begin(), out.experts.end());
        ASSERT_EQ(out.experts, plain_choice(token, k, guaranteed, p))
            << n << " experts, top-" << k << ", p " << p << ", " << off << " from rank " << m;
      }
  }
}

}  // namespace
}  // namespace moe_mobile
