// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "engine/probe.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace moe_mobile {
namespace {

TEST(Probe, ToleratesAnotherOrderOfSumsAndNothingElse) {
  const std::vector<float> given = {0.5f, -8.0f, 3.0f, 0.0f};
  EXPECT_TRUE(same_weights(given, given));
  std::vector<float> summed_otherwise = given;
  for (float& value : summed_otherwise) value = std::nextafter(value, 100.0f);
  EXPECT_TRUE(same_weights(given, summed_otherwise));
  EXPECT_NE(digest_of(given), digest_of(summed_otherwise));
  EXPECT_FALSE(same_weights(given, {0.5f, -8.0f, 3.1f, 0.0f}));
  EXPECT_FALSE(same_weights(given, std::vector<float>(4, 0.0f)));
  EXPECT_FALSE(same_weights(std::vector<float>(4, 0.0f), given));
  for (const float odd : {std::nanf(""), std::numeric_limits<float>::infinity()})
    EXPECT_FALSE(same_weights({odd}, {odd}));
}

}  // namespace
}  // namespace moe_mobile
