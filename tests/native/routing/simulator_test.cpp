// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "routing/simulator.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "base/expect_error.h"

namespace moe_mobile {
namespace {

struct Result {
  SimulatedTotals totals;
  std::vector<int32_t> selected;
  std::vector<uint8_t> missed, dropped;
};

// One expert of three is selected; `choices` names it per token, in every layer alike.
Result replay(const std::vector<uint32_t>& choices, uint32_t layers, uint32_t capacity,
              const char* routing, const char* eviction, bool global) {
  std::vector<float> logits;
  for (const uint32_t choice : choices)
    for (uint32_t layer = 0; layer < layers; ++layer)
      for (uint32_t e = 0; e < 3; ++e) logits.push_back(e == choice ? 1.f : 0.f);
  Simulation simulation;
  simulation.logits = logits.data();
  simulation.tokens = choices.size();
  simulation.layers = layers;
  simulation.router.num_experts = 3;
  simulation.router.top_k = 1;
  simulation.routing = parse_routing(routing);
  simulation.capacity = capacity;
  simulation.global = global;
  simulation.eviction = parse_eviction(eviction);
  Result result;
  result.selected.resize(choices.size() * layers);
  result.missed.resize(result.selected.size());
  result.dropped.resize(result.selected.size());
  result.totals = simulate(
      simulation, {result.selected.data(), result.missed.data(), result.dropped.data()}, [] {});
  return result;
}

TEST(Simulator, CountsHitsEvictionsAndLifetimes) {
  const Result lru = replay({0, 1, 0, 2, 1}, 1, 2, "exact", "lru", false);
  EXPECT_EQ(lru.selected, (std::vector<int32_t>{0, 1, 0, 2, 1}));
  EXPECT_EQ(lru.missed, (std::vector<uint8_t>{1, 1, 0, 1, 1}));
  EXPECT_EQ(lru.totals.misses, 4u);
  EXPECT_EQ(lru.totals.evictions, 2u);
  EXPECT_EQ(lru.totals.lifetime_tokens, 2u + 4u);
  const Result belady = replay({0, 1, 0, 2, 1}, 1, 2, "exact", "belady", false);
  EXPECT_EQ(belady.missed, (std::vector<uint8_t>{1, 1, 0, 1, 0}));
}

TEST(Simulator, PoolsAreOfALayerOrOfAll) {
  EXPECT_EQ(replay({0, 1, 0}, 2, 1, "exact", "lru", false).totals.misses, 6u);
  // Two layers share two places, in turns.
  EXPECT_EQ(replay({0, 0, 1}, 2, 1, "exact", "lru", true).missed,
            (std::vector<uint8_t>{1, 1, 0, 0, 1, 1}));
  EXPECT_EQ(replay({0, 1, 0}, 2, 2, "exact", "lru", true).totals.misses, 4u);
}

TEST(Simulator, RefusesWhatMakesNoSense) {
  EXPECT_ERROR(replay({0}, 1, 0, "exact", "lru", false), ErrorCode::kBudget, "1 of one token");
  EXPECT_ERROR(replay({0}, 1, 4, "exact", "lru", false), ErrorCode::kUsage, "larger");
  EXPECT_ERROR(replay({0}, 1, 2, "max-rank:2,J=0", "belady", false), ErrorCode::kUsage, "future");
  EXPECT_ERROR(replay({0}, 1, 2, "exact+drop-cold:1", "belady", false), ErrorCode::kUsage,
               "drop-cold");
  EXPECT_TRUE(testing::contains(replay({0}, 1, 2, "max-rank:2", "belady", false).totals.note,
                                "max-rank is off"));
}

TEST(Simulator, CanBeStopped) {
  Simulation simulation;
  const float logits[] = {0};
  simulation.logits = logits;
  simulation.tokens = simulation.layers = 1;
  simulation.router.num_experts = simulation.router.top_k = 1;
  simulation.routing = parse_routing("exact");
  simulation.capacity = 1;
  EXPECT_ERROR(simulate(simulation, {}, [] { throw Error(ErrorCode::kCancelled, "", "stop"); }),
               ErrorCode::kCancelled, "stop");
}

}  // namespace
}  // namespace moe_mobile
