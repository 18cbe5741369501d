// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "routing/method.h"
#include "routing/top_k.h"

// Cache-Prior, section 3.3 of arXiv 2412.00099: cached experts are ranked as if their logits were
// larger by lambda times the average range of the layer's logits.
namespace moe_mobile {
namespace {

class CachePrior : public RoutingMethod {
 public:
  explicit CachePrior(const MethodSettings& settings)
      : lambda_(settings.value),
        guaranteed_(settings.guaranteed),
        ranges_(settings.num_layers),
        boosted_(settings.top_k),
        contenders_(settings.num_experts + 1) {}

  void reset() override { std::fill(ranges_.begin(), ranges_.end(), Ranges{}); }

  void observe(const Ranking& ranking) override {
    float least = std::numeric_limits<float>::infinity();
    if (ranking.limited) {
      for (uint32_t e = 0; e < ranking.num_experts; ++e)
        if (std::isfinite(ranking.z[e])) least = std::min(least, ranking.z[e]);
    } else {
      least = least_of(ranking.z, ranking.num_experts);
    }
    Ranges& ranges = ranges_[ranking.layer];
    ranges.sum += static_cast<double>(ranking.z[ranking.best[0]]) - static_cast<double>(least);
    ranges.count += 1;
  }

  // An expert that is neither cached nor among the top_k best has top_k others ahead of it,
  // whatever is added to their logits. So those are chosen first, and cached experts may push the
  // worst out.
  void choose(const Ranking& ranking, const uint8_t* cached, uint32_t* chosen) override {
    const uint32_t k = ranking.top_k;
    const float* z = ranking.z;
    const Ranges& ranges = ranges_[ranking.layer];
    const double boost[2] = {0, lambda_ * (ranges.sum / ranges.count)};
    for (uint32_t rank = 0; rank < k; ++rank) {
      chosen[rank] = ranking.best[rank];
      boosted_[rank] = z[chosen[rank]] + boost[cached[chosen[rank]]];
    }
    if (k <= guaranteed_) return;
    const auto worst = [&] {
      uint32_t at = guaranteed_;
      for (uint32_t rank = guaranteed_ + 1; rank < k; ++rank)
        if (comes_before(boosted_[at], chosen[at], boosted_[rank], chosen[rank])) at = rank;
      return at;
    };
    uint32_t out = worst();
    // Experts that are not among the best but, boosted, not behind all of them; found without a
    // branch that depends on the values.
    const double bound = boosted_[out];
    const uint32_t last = ranking.best[k - 1];
    const float last_z = z[last];
    uint32_t count = 0;
    for (uint32_t e = 0; e < ranking.num_experts; ++e) {
      contenders_[count] = e;
      const bool is_behind = (z[e] < last_z) | ((z[e] == last_z) & (e > last));
      count += static_cast<uint32_t>(is_behind & (z[e] + boost[cached[e]] >= bound));
    }
    for (uint32_t i = 0; i < count; ++i) {
      const uint32_t expert = contenders_[i];
      const double value = z[expert] + boost[cached[expert]];
      if (!comes_before(value, expert, boosted_[out], chosen[out])) continue;
      boosted_[out] = value;
      chosen[out] = expert;
      out = worst();
    }
  }

 private:
  struct Ranges {
    double sum = 0;
    double count = 0;
  };

  static bool comes_before(double a, uint32_t a_index, double b, uint32_t b_index) {
    return a > b || (a == b && a_index < b_index);
  }

  double lambda_;
  uint32_t guaranteed_;
  std::vector<Ranges> ranges_;   // per layer
  std::vector<double> boosted_;  // of the experts chosen so far
  std::vector<uint32_t> contenders_;
};

// Straight lines through values that did no harm in published measurements
// (docs/routing/cache-prior.md).
double lambda_for_coverage(const MethodSettings& settings) {
  if (settings.capacity < settings.top_k) return 0;  // below one token cycle
  const double coverage = settings.capacity / settings.num_experts;
  const struct {
    double coverage, lambda;
  } points[] = {{0.10, 0.10}, {0.25, 0.15}, {0.50, 0.30}};
  if (coverage <= points[0].coverage) return points[0].lambda;
  for (int i = 1; i < 3; ++i) {
    if (coverage > points[i].coverage) continue;
    const double part =
        (coverage - points[i - 1].coverage) / (points[i].coverage - points[i - 1].coverage);
    return points[i - 1].lambda + part * (points[i].lambda - points[i - 1].lambda);
  }
  return points[2].lambda;
}

}  // namespace

extern const MethodInfo cache_prior_method;
const MethodInfo cache_prior_method = {
    "cache-prior", "cache-prior:LAMBDA with a LAMBDA of 0 to 100, or cache-prior:auto",
    [](double value) { return value <= 100; }, lambda_for_coverage,
    [](const MethodSettings& settings) -> std::unique_ptr<RoutingMethod> {
      return std::make_unique<CachePrior>(settings);
    }};

}  // namespace moe_mobile
