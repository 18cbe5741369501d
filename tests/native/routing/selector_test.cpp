// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "routing/selector.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <utility>
#include <vector>

#include "base/expect_error.h"
#include "routing/routing_run.h"

namespace moe_mobile {
namespace {

using Initial = InitialCache;
constexpr uint32_t kExperts = 8;
constexpr uint32_t kTopK = 2;

// Layers 1 and 3 of a model have experts.
SelectorSettings settings(const char* routing, Initial initial, bool global, uint32_t capacity) {
  SelectorSettings settings;
  settings.router.num_experts = kExperts;
  settings.router.top_k = kTopK;
  settings.routing = parse_routing(routing);
  settings.layers = {1, 3};
  settings.global = global;
  settings.capacity = capacity;
  settings.initial = initial;
  if (initial == Initial::kProfile) settings.profile = {{4, 1, 0}, {7, 2, 5}};
  return settings;
}

std::vector<float> random_logits(std::mt19937* random) {
  std::vector<float> logits(kExperts);
  for (float& logit : logits) logit = static_cast<float>((*random)() % 1000) / 100 - 8;
  return logits;
}

// The engine takes a prompt through one layer after the other, then goes token by token. The lab
// always goes token by token.
TEST(Selector, EngineAndLabDecideTheSame) {
  for (const char* routing : {"exact", "max-rank:4,J=1", "cache-prior:0.5", "exact+drop-cold:0.9"})
    for (const Initial initial : {Initial::kCold, Initial::kPrompt, Initial::kProfile})
      for (const auto& [scoring, global] : {std::pair(Scoring::kSoftmax, false),
                                            {Scoring::kSoftmax, true},
                                            {Scoring::kSigmoid, false},
                                            {Scoring::kRelu, false},
                                            {Scoring::kRelu, true}}) {
        SCOPED_TRACE(std::string(routing) + ", initial " +
                     std::to_string(static_cast<int>(initial)) + ", scoring " +
                     std::to_string(static_cast<int>(scoring)));
        SelectorSettings same = settings(routing, initial, global, global ? 7 : 3);
        same.router.scoring = scoring;
        Selector engine(same);
        RoutingRun lab(same);
        std::mt19937 random(11);
        for (int sequence = 0; sequence < 3; ++sequence) {
          engine.reset();
          lab.reset();
          const int prompt = static_cast<int>(random() % 6);
          std::vector<std::vector<float>> logits;
          for (int i = 0; i < 2 * prompt; ++i) logits.push_back(random_logits(&random));
          Selection selection;
          std::vector<uint32_t> selected(2 * prompt * kTopK, Selection::kNone);
          for (uint32_t layer = 0; layer < 2; ++layer)
            for (int token = 0; token < prompt; ++token) {
              const int at = 2 * token + static_cast<int>(layer);
              engine.prompt(layer, logits[at].data(), &selection);
              std::copy(selection.experts.begin(), selection.experts.end(),
                        selected.begin() + at * kTopK);
            }
          if (prompt > 0) engine.replay(selected);
          for (int i = 0; i < 2 * prompt; ++i)
            lab.step(static_cast<uint32_t>(i % 2), logits[i].data(), /*prompt=*/true);
          ASSERT_EQ(engine.caches()[0].by_recency(), lab.caches()[0].by_recency());
          for (int i = 0; i < 40; ++i) {
            const std::vector<float> one = random_logits(&random);
            const auto layer = static_cast<uint32_t>(i % 2);
            const Selector::Use use = engine.decode(layer, one.data(), &selection);
            const RunStep step = lab.step(layer, one.data(), /*prompt=*/false);
            ASSERT_EQ(selection.experts, step.selection.experts);
            ASSERT_EQ(selection.dropped, step.selection.dropped);
            ASSERT_EQ(use.uncached, step.uncached);
            ASSERT_EQ(engine.caches()[0].by_recency(), lab.caches()[0].by_recency());
          }
        }
      }
}

TEST(Selector, EachResetRestoresTheInitialCache) {
  const float first[kExperts] = {9, 8};
  Selection selection;
  for (const auto& [initial, expected] :
       {std::pair(Initial::kCold, 0u), {Initial::kPrompt, 0u}, {Initial::kProfile, 6u}}) {
    Selector selector(settings("exact", initial, false, 3));
    for (int sequence = 0; sequence < 2; ++sequence) {
      EXPECT_EQ(selector.caches()[0].size(), expected);
      selector.decode(0, first, &selection);
      selector.reset();
    }
  }
  SelectorSettings warm = settings("exact", Initial::kWarm, false, 3);
  warm.profile = {{4}, {}};
  Selector selector(warm);
  EXPECT_EQ(selector.caches()[0].by_recency(), (std::vector<ExpertKey>{{0, 4}}));
  selector.decode(0, first, &selection);
  selector.reset();
  EXPECT_EQ(selector.caches()[0].by_recency(), (std::vector<ExpertKey>{{0, 4}, {0, 1}, {0, 0}}));
}

// The first prompt does not change a cold cache; a prompt after decoding does.
TEST(Selector, LaterPromptsGoThroughTheCache) {
  const float logits[kExperts] = {9, 8};
  const std::vector<uint32_t> selected = {5, 6, 5, 6};  // a token in two layers
  Selection selection;
  Selector selector(settings("exact", Initial::kCold, false, 3));
  selector.replay(selected);
  EXPECT_EQ(selector.caches()[0].size(), 0u);
  selector.replay(selected);
  EXPECT_EQ(selector.caches()[0].size(), 4u);
  selector.reset();
  selector.decode(0, logits, &selection);
  selector.replay(selected);
  EXPECT_EQ(selector.caches()[0].by_recency(),
            (std::vector<ExpertKey>{{0, 0}, {0, 6}, {0, 5}, {1, 6}, {1, 5}}));
}

TEST(Selector, ReportsCachedAndEvictedExperts) {
  const float first[kExperts] = {9, 8}, second[kExperts] = {9, 0, 8};
  Selection selection;
  Selector selector(settings("exact", Initial::kCold, false, 2));
  EXPECT_EQ(selector.decode(1, first, &selection).uncached, (std::vector<uint8_t>{1, 1}));
  const Selector::Use use = selector.decode(1, second, &selection);
  EXPECT_EQ(use.uncached, (std::vector<uint8_t>{0, 1}));
  ASSERT_EQ(use.evicted.size(), 1u);
  EXPECT_EQ(use.evicted[0], (ExpertKey{1, 1}));
}

TEST(Selector, EachPrecisionHasACacheOfItsOwn) {
  SelectorSettings two = settings("exact", Initial::kCold, false, 1);
  two.precision = parse_precision("ranks:1");
  two.low_capacity = 2;
  EXPECT_EQ(two.capacity_per_layer(), 1.5);
  Selector selector(two);
  const float first[kExperts] = {9, 8}, second[kExperts] = {8, 9}, third[kExperts] = {9, 8};
  Selection selection;
  EXPECT_EQ(selector.variant(0), 0u);
  EXPECT_EQ(selector.variant(1), 1u);
  EXPECT_TRUE(selector.decode(0, first, &selection).evicted.empty());
  // The same experts in the other precision are not cached.
  const Selector::Use use = selector.decode(0, second, &selection);
  EXPECT_EQ(use.uncached, (std::vector<uint8_t>{1, 1}));
  ASSERT_EQ(use.evicted.size(), 1u);
  EXPECT_EQ(use.evicted[0], (ExpertKey{0, 0, 0}));
  EXPECT_EQ(selector.decode(0, third, &selection).uncached, (std::vector<uint8_t>{1, 0}));
  EXPECT_EQ(selector.caches()[0].by_recency(), (std::vector<ExpertKey>{{0, 0, 0}}));
  EXPECT_EQ(selector.caches()[1].by_recency(), (std::vector<ExpertKey>{{0, 0, 1}, {0, 1, 1}}));
  // A prompt goes through both caches too.
  selector.replay(std::vector<uint32_t>{5, 6, 7, 4});
  EXPECT_EQ(selector.caches()[0].by_recency(), (std::vector<ExpertKey>{{0, 5, 0}, {1, 7, 0}}));
  EXPECT_EQ(selector.caches()[1].by_recency(),
            (std::vector<ExpertKey>{{0, 1, 1}, {0, 6, 1}, {1, 4, 1}}));

  two.low_capacity = 0;
  EXPECT_ERROR(Selector{two}, ErrorCode::kBudget, "does not hold the 1 of one token");
}

TEST(Selector, AnExpertCountsAsCachedInThePrecisionOfItsRank) {
  SelectorSettings two = settings("exact+drop-cold:2", Initial::kCold, false, 4);
  two.precision = parse_precision("ranks:1");
  two.low_capacity = 4;
  Selector selector(two);
  const float first[kExperts] = {9, 8.9f}, turned[kExperts] = {8.9f, 9};
  Selection selection;
  selector.replay(std::vector<uint32_t>{0, 1, 0, 1});  // no effect: the initial cache is cold
  selector.replay(std::vector<uint32_t>{0, 1, 0, 1});
  selector.decode(0, first, &selection);
  EXPECT_EQ(selection.dropped, (std::vector<uint8_t>{0, 0}));
  // Expert 0 is cached for rank 0 only.
  selector.decode(0, turned, &selection);
  EXPECT_EQ(selection.dropped, (std::vector<uint8_t>{0, 1}));
}

TEST(Selector, APoolForAllLayersMayHoldAnyNumber) {
  EXPECT_EQ(settings("exact", Initial::kCold, true, 7).capacity_per_layer(), 3.5);
  Selector selector(settings("exact", Initial::kCold, true, 2 * kExperts));
  EXPECT_ERROR(Selector{settings("exact", Initial::kCold, true, 2 * kExperts + 1)},
               ErrorCode::kUsage, "larger than all 16");
  EXPECT_ERROR(Selector{settings("exact", Initial::kCold, true, 1)}, ErrorCode::kBudget,
               "does not hold the 2 of one token");
}

TEST(Selector, ResizingEvictsAndLaterRoutingSeesTheSmallerCache) {
  for (const bool global : {false, true}) {
    Selector selector(settings("max-rank:8,J=0", Initial::kWarm, global, global ? 8 : 4));
    Selection selection;
    for (uint32_t expert = 0; expert < 4; ++expert) {
      float logits[kExperts] = {};
      logits[expert] = 9;
      logits[(expert + 1) % 4] = 8;
      for (uint32_t layer = 0; layer < 2; ++layer) selector.decide(layer, logits, &selection);
      selection.experts = {expert, (expert + 1) % 4};
      selection.dropped = {0, 0};
      for (uint32_t layer = 0; layer < 2; ++layer) selector.use(layer, selection);
    }
    const auto before = selector.caches()[0].by_recency();
    selector.resize(global ? 4 : 2);
    std::vector<ExpertKey> expected;  // the most recent of each pool
    if (global) expected.assign(before.end() - 4, before.end());
    if (!global) expected = {before[2], before[3], before[6], before[7]};
    EXPECT_EQ(selector.caches()[0].by_recency(), expected);
    EXPECT_EQ(selector.settings().capacity, global ? 4u : 2u);
    // Routing prefers the experts that are cached now.
    const float logits[kExperts] = {1, 2, 3, 4, 5, 6, 7, 8};
    selector.decide(0, logits, &selection);
    for (const uint32_t expert : selection.experts)
      EXPECT_EQ(selector.caches()[0].cached(0)[expert], 1) << expert;
    EXPECT_ERROR(selector.resize(1), ErrorCode::kBudget, "does not hold the 2 of one token");
    EXPECT_ERROR(selector.resize(17), ErrorCode::kUsage, "is larger than all");
    EXPECT_EQ(selector.caches()[0].by_recency(), expected);
  }
}

}  // namespace
}  // namespace moe_mobile
