// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "base/span.h"

#include <gtest/gtest.h>

#include <array>
#include <numeric>
#include <vector>

namespace moe_mobile {
namespace {

int sum(Span<const int> values) { return std::accumulate(values.begin(), values.end(), 0); }

TEST(Span, ViewsContiguousThings) {
  const std::vector<int> vector{1, 2, 3};
  std::array<int, 2> array{4, 5};
  int raw[] = {6, 7};
  EXPECT_EQ(sum(vector), 6);
  EXPECT_EQ(sum(array), 9);
  EXPECT_EQ(sum(raw), 13);
  EXPECT_EQ(sum({}), 0);
  Span<int> writable(array);
  writable[1] = 10;
  EXPECT_EQ(array[1], 10);
  EXPECT_EQ(sum(writable), 14);  // to const
  static_assert(!std::is_convertible_v<const std::vector<int>&, Span<int>>, "drops const");
  static_assert(!std::is_convertible_v<std::vector<double>&, Span<int>>, "changes the type");
}

}  // namespace
}  // namespace moe_mobile
