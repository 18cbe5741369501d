// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "base/spelling.h"

#include <gtest/gtest.h>

namespace moe_mobile {
namespace {

TEST(DidYouMean, AsksForTheNearestWord) {
  const std::vector<std::string> known = {"exact", "max-rank", "cumulative", "cache-prior"};
  const auto meant = [&](const std::string& word) { return did_you_mean(word, known, "Choose."); };
  EXPECT_EQ(meant("exakt"), "Did you mean 'exact'? Choose.");
  EXPECT_EQ(meant("eaxct"), "Did you mean 'exact'? Choose.");
  EXPECT_EQ(meant("cache_prio"), "Did you mean 'cache-prior'? Choose.");
  EXPECT_EQ(meant("MAX-RANK"), "Did you mean 'max-rank'? Choose.");
}

TEST(DidYouMean, SaysNothingOfWordsThatAreUnlike) {
  EXPECT_EQ(did_you_mean("softmax", {"exact", "lru"}, "Choose."), "Choose.");
  EXPECT_EQ(did_you_mean("", {"lru"}, "Choose."), "Choose.");
  EXPECT_EQ(did_you_mean("x", {"y"}, "Choose."), "Choose.");
  EXPECT_EQ(did_you_mean(std::string(5000, 'a'), {"aaa"}, "Choose."), "Choose.");
}

}  // namespace
}  // namespace moe_mobile
