// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "routing/softmax_mass.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "routing/top_k.h"

namespace moe_mobile {
namespace {

using Values = std::vector<float>;

// The same sums, added up in double in the order of the values.
class PlainShares {
 public:
  explicit PlainShares(const Values& values) : values_(values) {
    const double largest = *std::max_element(values.begin(), values.end());
    for (const float value : values) total_ += masses_.emplace_back(std::exp(value - largest));
  }
  double before(uint32_t index) const {
    double before = 0;
    for (uint32_t i = 0; i < masses_.size(); ++i)
      if (comes_before(values_.data(), i, index)) before += masses_[i];
    return before / total_;
  }

 private:
  const Values& values_;
  std::vector<double> masses_;
  double total_ = 0;
};

// The largest error, in multiples of the bound.
double worst(const Values& values) {
  const auto n = static_cast<uint32_t>(values.size());
  SoftmaxMass mass(n);
  mass.set(values.data(), n, *std::max_element(values.begin(), values.end()));
  const PlainShares plain(values);
  double worst = 0;
  for (uint32_t i = 0; i < n; ++i)
    worst = std::max(worst, std::abs(mass.share_before(i) - plain.before(i)));
  return worst / mass.error();
}

TEST(SoftmaxMass, ErrorStaysBelowItsBound) {
  std::mt19937 random(1);
  for (const uint32_t n : {1u, 2u, 3u, 4u, 5u, 63u, 64u, 128u, 257u, 1000u})
    for (const float spread : {0.f, 0.01f, 1.f, 10.f, 60.f, 1e4f, 1e30f}) {
      std::normal_distribution<float> normal(spread / 3, 1);
      Values values(n);
      for (int trial = 0; trial < 4; ++trial) {
        for (float& value : values) value = spread * normal(random);
        if (trial % 2 != 0)
          for (float& value : values) value = std::round(value);  // ties
        EXPECT_LT(worst(values), 0.5) << n << " values, spread " << spread;
      }
    }
}

TEST(SoftmaxMass, ManyEqualValues) {
  for (const float below : {0.f, 1.f, 7.3f, 11.f, 79.9f, 80.1f}) {
    Values values(20000, -below);
    values[77] = 0;
    const uint32_t n = 20000;
    SoftmaxMass mass(n);
    mass.set(values.data(), n, 0);
    const PlainShares plain(values);
    for (const uint32_t i : {0u, 77u, 78u, 9999u, 19999u})
      EXPECT_NEAR(mass.share_before(i), plain.before(i), mass.error() / 2);
  }
}

TEST(SoftmaxMass, IneligibleValuesHaveNoMass) {
  const float never = -std::numeric_limits<float>::infinity();
  const Values values = {never, 2, never, 2, 1, -3e38f, never};
  EXPECT_LT(worst(values), 0.5);
  SoftmaxMass mass(7);
  mass.set(values.data(), 7, 2);
  EXPECT_EQ(mass.share_before(1), 0);
  EXPECT_NEAR(mass.share_before(5), 1, 1e-6);
}

}  // namespace
}  // namespace moe_mobile
