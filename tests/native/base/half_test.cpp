// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "base/half.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

namespace moe_mobile {
namespace {

float from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

// The value of a finite half by the formula of the standard.
double value_of(uint16_t half) {
  const int exponent = (half >> 10) & 31, mantissa = half & 0x3ff;
  const double magnitude =
      exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
  return (half & 0x8000) != 0 ? -magnitude : magnitude;
}

TEST(Half, EveryHalfSurvivesTheRoundTrip) {
  for (uint32_t half = 0; half < 65536; ++half) {
    const float value = half_to_float(static_cast<uint16_t>(half));
    if (((half >> 10) & 31) == 31) {
      EXPECT_EQ(std::isnan(value), (half & 0x3ff) != 0);
      if (std::isinf(value)) {
        ASSERT_EQ(float_to_half(value), half);
      }
      continue;
    }
    ASSERT_EQ(value, value_of(static_cast<uint16_t>(half)));
    ASSERT_EQ(float_to_half(value), half);
  }
}

TEST(Half, RoundsToNearestEven) {
  for (uint16_t half = 0; half < 0x7bff; ++half) {  // and its upper neighbour
    const double low = value_of(half), high = value_of(static_cast<uint16_t>(half + 1));
    const float middle = static_cast<float>((low + high) / 2);  // exact in a float
    ASSERT_EQ(float_to_half(middle), half % 2 == 0 ? half : half + 1);
    ASSERT_EQ(float_to_half(std::nextafter(middle, 0.0f)), half);
    ASSERT_EQ(float_to_half(std::nextafter(middle, 1e9f)), half + 1);
  }
  EXPECT_EQ(float_to_half(65519.99f), 0x7bff);
  EXPECT_EQ(float_to_half(65520.0f), 0x7c00);
  EXPECT_EQ(float_to_half(-1e30f), 0xfc00);
  EXPECT_EQ(float_to_half(std::numeric_limits<float>::infinity()), 0x7c00);
  EXPECT_EQ(float_to_half(-0.0f), 0x8000);
}

TEST(Half, BulkEqualsScalar) {
  std::mt19937 random(3);
  for (size_t count : {0, 1, 3, 7, 8, 9, 31, 1000}) {
    std::vector<float> floats(count);
    for (float& value : floats) {
      value = random() % 2 == 0 ? from_bits(static_cast<uint32_t>(random()))  // any pattern
                                : std::ldexp(static_cast<float>(random() % 4096), -18);
    }
    std::vector<uint16_t> halves(count);
    bool finite = true;
    for (const float value : floats) finite &= (float_to_half(value) & 0x7c00) != 0x7c00;
    EXPECT_EQ(floats_to_halves(floats.data(), halves.data(), count), finite);
    for (size_t i = 0; i < count; ++i) ASSERT_EQ(halves[i], float_to_half(floats[i])) << floats[i];
  }
}

}  // namespace
}  // namespace moe_mobile
