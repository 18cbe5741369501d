// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "cache/expert_key.h"

#include <gtest/gtest.h>

#include <set>

namespace moe_mobile {
namespace {

TEST(ExpertKey, PacksItsLimitsWithoutCollision) {
  const uint32_t values[] = {0, 1, 65535};
  std::set<uint64_t> packed;
  for (uint32_t layer : values) {
    for (uint32_t expert : values) {
      for (uint32_t variant : values) packed.insert(ExpertKey{layer, expert, variant}.packed());
    }
  }
  EXPECT_EQ(packed.size(), 27u);
  EXPECT_TRUE((ExpertKey{1, 2}) == (ExpertKey{1, 2, 0}));
  EXPECT_TRUE((ExpertKey{1, 2}) != (ExpertKey{1, 2, 1}));
  EXPECT_TRUE((ExpertKey{1, 9}) < (ExpertKey{2, 0}));
}

}  // namespace
}  // namespace moe_mobile
