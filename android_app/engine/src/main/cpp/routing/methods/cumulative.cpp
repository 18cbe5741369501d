// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "routing/softmax_mass.h"
#include "routing/top_k.h"
#include "routing/window.h"

// Cumulative probability threshold, Algorithm 2 of arXiv 2412.00099: Max-Rank with a window of as
// many experts as it takes for their probabilities to sum to p.
namespace moe_mobile {
namespace {

class Cumulative : public RoutingMethod {
 public:
  explicit Cumulative(const MethodSettings& settings)
      : threshold_(settings.value),
        probabilities_(settings.num_experts),
        mass_(settings.num_experts),
        chooser_(settings) {}

  void choose(const Ranking& ranking, const uint8_t* cached, uint32_t* chosen) override {
    if (threshold_ >= 1) {  // rounding must not decide
      chooser_.choose(ranking, cached, [](uint32_t) { return true; }, chosen);
      return;
    }
    bool has_mass = false;
    uint32_t size = 0;  // of the window, if it had to be counted
    const auto in_window = [&](uint32_t expert) {
      // An expert is in the window if the probabilities before it do not reach p. An approximate
      // sum usually settles that.
      if (ranking.scores == nullptr && size == 0) {
        if (!has_mass) mass_.set(ranking.z, ranking.num_experts, ranking.z[ranking.best[0]]);
        has_mass = true;
        const double distance = mass_.share_before(expert) - threshold_;
        if (std::abs(distance) > mass_.error()) return distance < 0;
      }
      if (size == 0) size = window(ranking);
      return rank_of(ranking.z, ranking.num_experts, expert) < size;
    };
    chooser_.choose(ranking, cached, in_window, chosen);
  }

 private:
  uint32_t window(const Ranking& ranking) {
    const double largest = ranking.z[ranking.best[0]];
    double sum = 0;
    for (uint32_t e = 0; e < ranking.num_experts; ++e) {
      const double z = ranking.z[e];
      if (ranking.scores == nullptr) {
        probabilities_[e] = std::exp(z - largest);  // 0 if not eligible
      } else {
        probabilities_[e] = std::isfinite(z) ? static_cast<double>(ranking.scores[e]) : 0;
      }
      sum += probabilities_[e];
    }
    // A heap, since only a few are taken from it.
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
  SoftmaxMass mass_;
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
