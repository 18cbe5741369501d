// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "base/error.h"
#include "engine/call_gate.h"

namespace moe_mobile {
namespace {

TEST(CallGate, WithoutACallAChangeIsMadeAtOnce) {
  CallGate gate;
  int made = 0;
  gate.post([&] { ++made; });
  EXPECT_EQ(made, 1);
  {
    const CallGate::Call call(&gate);
  }
  gate.post([&] { ++made; });
  EXPECT_EQ(made, 2);
}

TEST(CallGate, WithinACallItWaitsForAPointOrTheEnd) {
  CallGate gate;
  std::vector<int> made;
  {
    const CallGate::Call call(&gate);
    gate.post([&] { made.push_back(1); });
    EXPECT_TRUE(made.empty());
    gate.pass();
    gate.pass();
    EXPECT_EQ(made, std::vector<int>{1});
    gate.post([&] { made.push_back(2); });
    gate.post([&] { made.push_back(3); });  // replaces the one that waits
    EXPECT_EQ(made, std::vector<int>{1});
  }
  EXPECT_EQ(made, (std::vector<int>{1, 3}));
}

TEST(CallGate, ASecondCallIsRefused) {
  CallGate gate;
  {
    const CallGate::Call call(&gate);
    EXPECT_THROW(CallGate::Call second(&gate), Error);
  }
  EXPECT_NO_THROW(CallGate::Call third(&gate));
}

TEST(CallGate, CallsAndChangesNeverOverlap) {
  CallGate gate;
  int state = 0;  // without a lock: ThreadSanitizer reports unsafe access
  std::vector<std::thread> others;
  for (int i = 0; i < 3; ++i)
    others.emplace_back([&] {
      for (int change = 0; change < 300; ++change) gate.post([&] { ++state; });
    });
  for (int i = 0; i < 300; ++i) {
    const CallGate::Call call(&gate);
    ++state;
    gate.pass();
    ++state;
  }
  for (std::thread& other : others) other.join();
  EXPECT_GT(state, 600);
  EXPECT_LE(state, 600 + 3 * 300);
}

}  // namespace
}  // namespace moe_mobile
