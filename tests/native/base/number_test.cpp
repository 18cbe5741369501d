// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "base/number.h"

#include <gtest/gtest.h>

namespace moe_mobile {
namespace {

TEST(Number, Parses) {
  EXPECT_EQ(parse_number("0.2"), 0.2);
  EXPECT_EQ(parse_number("12"), 12.0);
  EXPECT_EQ(parse_number(".5"), 0.5);
  EXPECT_EQ(parse_number("1e-05"), 1e-05);
  for (const char* text : {"", "-1", "+1", "inf", "nan", "0x10", "1 ", " 1", "1,5", "1e999", "2x",
                           "1.2.3", "e", "--1", "1-"})
    EXPECT_EQ(parse_number(text), std::nullopt) << text;
}

TEST(Number, WritesTheShortestText) {
  EXPECT_EQ(number_text(0.2), "0.2");
  EXPECT_EQ(number_text(3), "3");
  EXPECT_EQ(number_text(0.1 + 0.2), "0.30000000000000004");
  EXPECT_EQ(number_text(1e-05), "1e-05");
}

}  // namespace
}  // namespace moe_mobile
