// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "routing/precision.h"

#include <gtest/gtest.h>

#include "base/expect_error.h"

namespace moe_mobile {
namespace {

TEST(Precision, RoundTripsThroughText) {
  for (const char* text : {"full", "low", "ranks:1", "ranks:12345"})
    EXPECT_EQ(to_text(parse_precision(text)), text);
}

TEST(Precision, IsDecidedByTheRank) {
  const Precision precision = parse_precision("ranks:2");
  EXPECT_EQ(precision.variant(1), 0u);
  EXPECT_EQ(precision.variant(2), 1u);
  EXPECT_EQ(precision.ranks(0, 8), 2u);
  EXPECT_EQ(precision.ranks(1, 8), 6u);
  EXPECT_EQ(parse_precision("full").ranks(1, 8), 0u);
  EXPECT_EQ(parse_precision("low").ranks(1, 8), 8u);
}

TEST(Precision, RefusesOtherTexts) {
  for (const char* text : {"", "0", "Full", "ranks:", "ranks:0", "ranks:01", "ranks:-1", "ranks:1x",
                           "ranks:123456", "ranks:1 "})
    EXPECT_ERROR(parse_precision(text), ErrorCode::kUsage, "invalid precision");
}

}  // namespace
}  // namespace moe_mobile
