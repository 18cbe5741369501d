// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "routing/window.h"

// Cumulative probability threshold, Algorithm 2 of arXiv 2412.00099: Max-Rank with a window of as
// many experts as it takes for their probabilities to sum to p.
namespace moe_mobile {
namespace {

class Cumulative : public RoutingMethod {
 public:
  explicit Cumulative(const MethodSettings& settings)
      : threshold_(settings.value), probabilities_(settings.num_experts), chooser_(settings) {}

  void choose(const Ranking& ranking, const uint8_t* cached, uint32_t* chosen) override {
    chooser_.choose(ranking, window(ranking), cached, chosen);
  }

 private:
  uint32_t window(const Ranking& ranking) {
    if (threshold_ >= 1) return ranking.num_experts;  // rounding must not decide
    const double largest = ranking.z[ranking.best[0]];
    double sum = 0;
    for (uint32_t e = 0; e < ranking.num_experts; ++e) {
      const double z = ranking.z[e];
      if (ranking.scores == nullptr) {
        probabilities_[e] = std::exp(z - largest);  // 0 where not eligible
      } else {
        probabilities_[e] = std::isfinite(z) ? static_cast<double>(ranking.scores[e]) : 0;
      }
      sum += probabilities_[e];
    }
    // A heap, since few are taken from it.
    std::make_heap(probabilities_.begin(), probabilities_.end());
    double reached = 0;
    uint32_t size = 0;
    for (auto end = probabilities_.end(); end != probabilities_.begin(); --end) {
      reached += probabilities_.front() / sum;
      ++size;
      if (reached >= threshold_) break;
      std::pop_heap(probabilities_.begin(), end);
    }
    return size;
  }

  double threshold_;
  std::vector<double> probabilities_;
  WindowChooser chooser_;
};

}  // namespace

extern const MethodInfo cumulative_method;
const MethodInfo cumulative_method = {
    "cumulative", "cumulative:P with a P above 0 and at most 1",
    [](double value) { return value > 0 && value <= 1; }, nullptr,
    [](const MethodSettings& settings) -> std::unique_ptr<RoutingMethod> {
      return std::make_unique<Cumulative>(settings);
    }};

}  // namespace moe_mobile
