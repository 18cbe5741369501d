// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "cache/residency_map.h"

namespace moe_mobile {
namespace {

TEST(ResidencyMap, ShowsStatesAndCountsByLayer) {
  ResidencyMap map({1, 3}, 4);
  map.set({1, 2}, ExpertState::kReady);
  map.set({3, 0}, ExpertState::kOnItsWay);
  map.count(3, 5, 2);
  map.count(3, 1, 0);
  const ResidencySnapshot shown = map.snapshot();
  EXPECT_EQ(shown.layers, (std::vector<uint32_t>{1, 3}));
  EXPECT_EQ(shown.num_experts, 4u);
  std::vector<ExpertState> expected(8, ExpertState::kAbsent);
  expected[2] = ExpertState::kReady;
  expected[4] = ExpertState::kOnItsWay;
  EXPECT_EQ(shown.states, expected);
  EXPECT_EQ(shown.hits, (std::vector<uint64_t>{0, 6}));
  EXPECT_EQ(shown.misses, (std::vector<uint64_t>{0, 2}));
}

TEST(ResidencyMap, ShowsTheVariantClosestToRunning) {
  ResidencyMap map({0}, 1);
  const auto shown = [&] {
    const ResidencySnapshot snapshot = map.snapshot();
    return std::pair(snapshot.states[0], int{snapshot.variants[0]});
  };
  map.set({0, 0, 1}, ExpertState::kOnItsWay);
  EXPECT_EQ(shown(), std::pair(ExpertState::kOnItsWay, 1));
  map.set({0, 0, 0}, ExpertState::kReady);
  EXPECT_EQ(shown(), std::pair(ExpertState::kReady, 0));
  map.set({0, 0, 0}, ExpertState::kAbsent);
  EXPECT_EQ(shown(), std::pair(ExpertState::kOnItsWay, 1));
  map.set({0, 0, 1}, ExpertState::kAbsent);
  EXPECT_EQ(shown(), std::pair(ExpertState::kAbsent, 0));
}

TEST(ResidencyMap, CountsThePlacesThatHoldMemory) {
  ResidencyMap map({0, 2}, 4);
  EXPECT_EQ(map.places(0), 0u);
  map.make_places(0, 3);
  EXPECT_EQ(map.places(0), 3u);
  for (uint32_t expert = 0; expert < 4; ++expert) {  // both precisions of the same experts
    map.set({2, expert, 0}, ExpertState::kOnItsWay);
    map.set({2, expert, 0}, ExpertState::kReady);
    map.set({2, expert, 1}, ExpertState::kOnItsWay);
  }
  EXPECT_EQ(map.places(0), 4u);
  EXPECT_EQ(map.places(1), 4u);
  // An expert that leaves gives nothing back, and the next one takes its place.
  map.set({2, 0, 0}, ExpertState::kAbsent);
  map.set({2, 1, 0}, ExpertState::kAbsent);
  map.set({0, 0, 0}, ExpertState::kReady);
  EXPECT_EQ(map.places(0), 4u);
  map.limit_places(0, 9);
  EXPECT_EQ(map.places(0), 4u);
  map.limit_places(0, 1);
  EXPECT_EQ(map.places(0), 3u);  // they still hold experts
  for (uint32_t expert = 0; expert < 4; ++expert) map.set({2, expert, 1}, ExpertState::kAbsent);
  map.limit_places(1, 2);
  EXPECT_EQ(map.places(1), 2u);
  map.limit_places(1, 0);
  EXPECT_EQ(map.places(1), 0u);
}

TEST(ResidencyMap, ManyReadersWithOneWriter) {
  ResidencyMap map({0, 1}, 8);
  std::atomic<bool> ended{false};
  std::vector<std::thread> readers;
  for (int i = 0; i < 2; ++i)
    readers.emplace_back([&] {
      uint64_t before = 0;
      while (!ended) {
        const ResidencySnapshot shown = map.snapshot();
        EXPECT_GE(shown.hits[1], before);
        before = shown.hits[1];
      }
    });
  for (uint32_t i = 0; i < 20000; ++i) {
    map.set({i % 2, i % 8, i / 2 % 2}, static_cast<ExpertState>(i % 3));
    map.count(i % 2, 1, 2);
  }
  ended = true;
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(map.snapshot().misses[0], 20000u);
}

}  // namespace
}  // namespace moe_mobile
