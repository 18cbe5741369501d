// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "routing/simulator.h"

#include <gtest/gtest.h>

#include <numeric>
#include <string>
#include <vector>

#include "base/expect_error.h"

namespace moe_mobile {
namespace {

struct Result {
  RunTotals totals;
  std::string note;
  std::vector<int32_t> selected;
  std::vector<uint8_t> uncached, dropped;
};

// One expert of three is selected.
Simulation one_of_three(uint32_t layers, uint32_t capacity, const char* routing,
                        const char* eviction) {
  Simulation simulation;
  simulation.run.router.num_experts = 3;
  simulation.run.router.top_k = 1;
  simulation.run.routing = parse_routing(routing);
  simulation.run.layers.resize(layers);
  std::iota(simulation.run.layers.begin(), simulation.run.layers.end(), 0u);
  simulation.run.capacity = capacity;
  simulation.run.eviction = parse_eviction(eviction);
  return simulation;
}

// `choices` names the expert per token, the same in every layer. One sequence by default.
Result replay(Simulation simulation, const std::vector<uint32_t>& choices) {
  const size_t layers = simulation.run.layers.size();
  std::vector<float> logits;
  for (const uint32_t choice : choices)
    for (size_t layer = 0; layer < layers; ++layer)
      for (uint32_t e = 0; e < 3; ++e) logits.push_back(e == choice ? 1.f : 0.f);
  simulation.logits = logits.data();
  if (simulation.sequences.empty()) simulation.sequences = {choices.size()};
  Result result;
  result.selected.resize(choices.size() * layers);
  result.uncached.resize(result.selected.size());
  result.dropped.resize(result.selected.size());
  const SimulatedTotals totals = simulate(
      simulation, {result.selected.data(), result.uncached.data(), result.dropped.data()}, [] {});
  result.totals = totals.decoded;
  result.note = totals.note;
  return result;
}

Result replay(const std::vector<uint32_t>& choices, uint32_t layers, uint32_t capacity,
              const char* routing, const char* eviction, bool global) {
  Simulation simulation = one_of_three(layers, capacity, routing, eviction);
  simulation.run.global = global;
  if (global) simulation.run.capacity *= layers;
  return replay(simulation, choices);
}

TEST(Simulator, CountsHitsEvictionsAndLifetimes) {
  const Result lru = replay({0, 1, 0, 2, 1}, 1, 2, "exact", "lru", false);
  EXPECT_EQ(lru.selected, (std::vector<int32_t>{0, 1, 0, 2, 1}));
  EXPECT_EQ(lru.uncached, (std::vector<uint8_t>{1, 1, 0, 1, 1}));
  EXPECT_EQ(lru.totals.uncached, 4u);
  EXPECT_EQ(lru.totals.evictions, 2u);
  EXPECT_EQ(lru.totals.lifetime_tokens, 2u + 4u);
  const Result belady = replay({0, 1, 0, 2, 1}, 1, 2, "exact", "belady", false);
  EXPECT_EQ(belady.uncached, (std::vector<uint8_t>{1, 1, 0, 1, 0}));
}

TEST(Simulator, OnePoolPerLayerOrOneForAll) {
  EXPECT_EQ(replay({0, 1, 0}, 2, 1, "exact", "lru", false).totals.uncached, 6u);
  // Two layers share two places, in turns.
  EXPECT_EQ(replay({0, 0, 1}, 2, 1, "exact", "lru", true).uncached,
            (std::vector<uint8_t>{1, 1, 0, 0, 1, 1}));
  EXPECT_EQ(replay({0, 1, 0}, 2, 2, "exact", "lru", true).totals.uncached, 4u);
}

TEST(Simulator, RefusesInvalidInput) {
  EXPECT_ERROR(replay({0}, 1, 0, "exact", "lru", false), ErrorCode::kBudget, "1 of one token");
  EXPECT_ERROR(replay({0}, 1, 4, "exact", "lru", false), ErrorCode::kUsage, "larger");
  EXPECT_ERROR(replay({0}, 1, 2, "max-rank:2,J=0", "belady", false), ErrorCode::kUsage, "future");
  EXPECT_ERROR(replay({0}, 1, 2, "exact+drop-cold:1", "belady", false), ErrorCode::kUsage,
               "drop-cold");
  EXPECT_TRUE(
      testing::contains(replay({0}, 1, 2, "max-rank:2", "belady", false).note, "max-rank is off"));
}

TEST(Simulator, SequencesAreIndependent) {
  Simulation simulation = one_of_three(1, 2, "exact", "lru");
  simulation.sequences = {2, 3};
  const Result result = replay(simulation, {0, 1, 1, 0, 1});
  EXPECT_EQ(result.uncached, (std::vector<uint8_t>{1, 1, 1, 1, 0}));
  EXPECT_EQ(result.totals.slots, 5u);
  EXPECT_EQ(result.totals.uncached, 4u);
  EXPECT_EQ(result.totals.evictions, 0u);
}

TEST(Simulator, OnlyDecodingCounts) {
  Simulation simulation = one_of_three(1, 2, "exact", "lru");
  simulation.prompt_tokens = 3;
  simulation.sequences = {2, 5};  // the first is all prompt
  const std::vector<uint32_t> choices = {0, 0, 0, 1, 2, 1, 0};
  const Result cold = replay(simulation, choices);
  EXPECT_EQ(cold.uncached, (std::vector<uint8_t>{1, 1, 1, 1, 1, 1, 1}));
  EXPECT_EQ(cold.totals.slots, 2u);
  EXPECT_EQ(cold.totals.uncached, 2u);
  EXPECT_EQ(cold.totals.evictions, 0u);

  simulation.run.initial = InitialCache::kPrompt;
  const Result warm = replay(simulation, choices);
  EXPECT_EQ(warm.uncached, (std::vector<uint8_t>{1, 0, 1, 1, 1, 0, 1}));
  EXPECT_EQ(warm.totals.uncached, 1u);
  EXPECT_EQ(warm.totals.evictions, 1u);        // the prompt's own is not counted
  EXPECT_EQ(warm.totals.lifetime_tokens, 2u);  // of expert 2, loaded by the prompt's last token

  simulation.run.initial = InitialCache::kProfile;
  simulation.run.profile = {{0, 2, 1}};
  const Result profile = replay(simulation, choices);
  EXPECT_EQ(profile.uncached, (std::vector<uint8_t>{0, 0, 0, 1, 0, 1, 0}));
  EXPECT_EQ(profile.totals.uncached, 1u);
  EXPECT_EQ(profile.totals.evictions, 1u);  // of expert 2: expert 0 was used more recently
  EXPECT_EQ(profile.totals.lifetime_tokens, 0u);
}

// Belady keeps what decoding uses, whatever the prompt does.
TEST(Simulator, BeladyCountsDecodingOnly) {
  Simulation simulation = one_of_three(1, 2, "exact", "belady");
  simulation.run.initial = InitialCache::kPrompt;
  simulation.prompt_tokens = 4;
  EXPECT_EQ(replay(simulation, {0, 1, 2, 1, 0, 0}).uncached,
            (std::vector<uint8_t>{1, 1, 1, 1, 0, 0}));
}

TEST(Simulator, CanBeStopped) {
  Simulation simulation = one_of_three(1, 1, "exact", "lru");
  const float logits[] = {0, 0, 0};
  simulation.logits = logits;
  simulation.sequences = {1};
  EXPECT_ERROR(simulate(simulation, {}, [] { throw Error(ErrorCode::kCancelled, "", "stop"); }),
               ErrorCode::kCancelled, "stop");
}

}  // namespace
}  // namespace moe_mobile
