// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "routing/routing_run.h"

#include <gtest/gtest.h>

#include <utility>
#include <vector>

#include "base/expect_error.h"

namespace moe_mobile {
namespace {

using Mask = std::vector<uint8_t>;

SelectorSettings two_of_four(std::vector<uint32_t> layers, const char* routing) {
  SelectorSettings settings;
  settings.router.num_experts = 4;
  settings.router.top_k = 2;
  settings.routing = parse_routing(routing);
  settings.layers = std::move(layers);
  settings.capacity = 2;
  return settings;
}

TEST(RoutingRun, TakesTokensOneByOne) {
  const float first[] = {9, 8, 0, 0}, second[] = {0, 8, 9, 8.5};
  RoutingRun run(two_of_four({0}, "max-rank:3,J=1"));
  EXPECT_EQ(run.step(0, first, false).uncached, (Mask{1, 1}));
  // 2 is guaranteed, and 1 is cached, unlike 3.
  const RunStep step = run.step(0, second, false);
  EXPECT_EQ(step.selection.experts, (std::vector<uint32_t>{2, 1}));
  EXPECT_EQ(step.uncached, (Mask{1, 0}));
  EXPECT_EQ(run.totals().changed, 1u);
  run.reset();
  EXPECT_EQ(run.step(0, second, false).selection.experts, (std::vector<uint32_t>{2, 3}));
  EXPECT_EQ(run.totals().slots, 6u);
}

TEST(RoutingRun, APromptIsRoutedExactly) {
  const float first[] = {9, 8, 0, 0}, second[] = {0, 8, 9, 8.5};
  SelectorSettings settings = two_of_four({0}, "max-rank:3,J=1");
  settings.initial = InitialCache::kPrompt;
  RoutingRun run(settings);
  run.step(0, first, true);
  EXPECT_EQ(run.step(0, second, true).selection.experts, (std::vector<uint32_t>{2, 3}));
  const RunStep step = run.step(0, first, false);
  EXPECT_EQ(step.selection.experts, (std::vector<uint32_t>{0, 2}));
  EXPECT_EQ(step.uncached, (Mask{1, 0}));
  EXPECT_EQ(run.totals().slots, 2u);
}

TEST(RoutingRun, FirstCountsTheLayersOfTheModel) {
  const float first[] = {9, 8, 0, 0}, second[] = {0, 8, 9, 8.5};
  RoutingRun run(two_of_four({1, 3}, "max-rank:3,J=1,first=2"));
  EXPECT_EQ(run.routing().text, "max-rank:3,J=1,first=2");
  for (const uint32_t layer : {0u, 1u}) run.step(layer, first, false);
  EXPECT_EQ(run.step(0, second, false).selection.changed, 0u);
  EXPECT_EQ(run.step(1, second, false).selection.changed, 1u);
}

TEST(RoutingRun, OnePoolTakesLayersInOrder) {
  const float logits[] = {0, 1, 2, 3};
  SelectorSettings settings = two_of_four({0, 1}, "exact");
  RoutingRun per_layer(settings);
  for (const uint32_t layer : {1u, 1u, 0u}) per_layer.step(layer, logits, false);
  EXPECT_ERROR(per_layer.step(2, logits, false), ErrorCode::kUsage, "layer 2");
  settings.global = true;
  EXPECT_ERROR(RoutingRun{settings}, ErrorCode::kBudget, "uses in each");
  settings.capacity = 4;
  RoutingRun global(settings);
  global.step(0, logits, false);
  EXPECT_ERROR(global.step(0, logits, true), ErrorCode::kUsage, "is not the next");
  global.step(1, logits, false);
  EXPECT_EQ(global.step(0, logits, false).uncached, (Mask{0, 0}));
  global.reset();
  EXPECT_EQ(global.step(0, logits, false).uncached, (Mask{1, 1}));
}

TEST(RoutingRun, RefusesInvalidInput) {
  SelectorSettings settings = two_of_four({0, 2, 2}, "exact");
  EXPECT_ERROR(RoutingRun{settings}, ErrorCode::kUsage, "ascending");
  settings.layers = {};
  EXPECT_ERROR(RoutingRun{settings}, ErrorCode::kUsage, "ascending");
  settings.layers = {0, 2};
  settings.capacity = 1;
  EXPECT_ERROR(RoutingRun{settings}, ErrorCode::kBudget, "does not hold");
  settings.capacity = 5;
  EXPECT_ERROR(RoutingRun{settings}, ErrorCode::kUsage, "larger");
  settings.capacity = 3;
  settings.initial = InitialCache::kProfile;
  settings.profile = {{0, 1}};
  EXPECT_ERROR(RoutingRun{settings}, ErrorCode::kUsage, "1 layers, the model 2");
  for (const std::vector<uint32_t>& wrong : {std::vector<uint32_t>{1, 0, 1}, {4}}) {
    settings.profile = {{0, 1}, wrong};
    EXPECT_ERROR(RoutingRun{settings}, ErrorCode::kUsage, "twice, or one that does not exist");
  }
  settings.profile = {{0, 1}, {}};
  EXPECT_EQ(RoutingRun{settings}.caches()[0].size(), 2u);
}

}  // namespace
}  // namespace moe_mobile
