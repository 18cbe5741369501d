// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "plan/engine_plan.h"

#include <gtest/gtest.h>

#include "base/expect_error.h"
#include "base/file.h"
#include "base/units.h"

namespace moe_mobile {
namespace {

// 4 layers, of which layer 0 has no experts; 8 experts and top-2 in each of the others.
Manifest model() {
  Manifest m;
  m.vocab_size = 100;
  m.hidden_size = 32;
  m.num_layers = 4;
  m.context_length = 8192;
  m.attention.num_heads = 2;
  m.attention.num_kv_heads = 1;
  m.attention.head_dim = 16;
  m.moe.num_experts = 8;
  m.moe.top_k = 2;
  m.moe.intermediate_size = 64;
  m.max_batch = 16;
  m.layers.resize(m.num_layers);
  for (LayerSpec& layer : m.layers) layer.mixer = m.attention;
  for (uint32_t layer = 1; layer < m.num_layers; ++layer) {
    m.layers[layer].experts.emplace();
    m.layers[layer].experts->programs.resize(m.moe.num_experts);
  }
  for (uint32_t layer = 1; layer < m.num_layers; ++layer)
    for (ExpertProgram& program : m.layers[layer].experts->programs) program.bytes = 3 * kMiB;
  m.memory.expert_bytes = 3 * kMiB;
  m.precisions = {{"8da8w", 0}};
  return m;
}

// The same with a second precision of the experts.
Manifest model_with_variants() {
  Manifest m = model();
  for (uint32_t layer = 1; layer < m.num_layers; ++layer)
    m.layers[layer].variants = {*m.layers[layer].experts};
  m.precisions.push_back({"8da4w", 32});
  return m;
}

StoreFacts store() {
  StoreFacts facts;
  facts.slot_bytes = {2 * kMiB, kMiB};
  facts.dense_bytes = 5 * kMiB;
  return facts;
}

EnginePlan plan(const EngineSettings& settings, const StoreFacts& facts = store(),
                uint64_t available = 4096 * kMiB, const Manifest& manifest = model()) {
  return plan_engine(resolve_settings(settings, manifest), manifest, facts, available);
}

EnginePlan plan_with_variants(const EngineSettings& settings) {
  return plan(settings, store(), 4096 * kMiB, model_with_variants());
}

TEST(EnginePlan, ResolvesAutomaticSettingsForExactRouting) {
  const EnginePlan p = plan({});
  EXPECT_EQ(p.settings.residency, Residency::kSlots);
  EXPECT_EQ(p.settings.pool, Pool::kGlobal);
  EXPECT_EQ(p.settings.initial_cache, InitialCache::kWarm);
  EXPECT_EQ(p.settings.context, kDefaultContext);
  EXPECT_EQ(p.memory.slots, 12u);  // half of 3 x 8
  EXPECT_EQ(p.selector.capacity, 12u);
  EXPECT_TRUE(p.selector.global);
  EXPECT_EQ(p.selector.layers, (std::vector<uint32_t>{1, 2, 3}));
  EXPECT_EQ(p.selector.initial, InitialCache::kWarm);
  EXPECT_EQ(p.routing.text, "exact");
  EXPECT_FALSE(p.routing.lossy());
  EXPECT_EQ(p.selector.profile, std::vector<std::vector<uint32_t>>(3));
  EXPECT_TRUE(p.fallbacks.empty());
}

TEST(EnginePlan, RoutingByTheCacheGetsAPoolForEachLayer) {
  EngineSettings settings;
  settings.routing = parse_routing("cache-prior:auto");
  const EnginePlan p = plan(settings);
  EXPECT_EQ(p.settings.pool, Pool::kPerLayer);
  EXPECT_EQ(p.settings.initial_cache, InitialCache::kPrompt);
  EXPECT_EQ(p.memory.slots_per_layer, 4u);
  EXPECT_EQ(p.selector.capacity, 4u);
  EXPECT_FALSE(p.selector.global);
  EXPECT_TRUE(p.routing.lossy());
  EXPECT_FALSE(p.settings.routing.automatic);
  EXPECT_EQ(to_text(p.settings.routing), p.routing.text);
  EXPECT_EQ(p.routing.text.find("auto"), std::string::npos);
}

TEST(EnginePlan, AMethodThatIsExactForThisModelCountsAsExact) {
  EngineSettings settings;
  settings.routing = parse_routing("cache-prior:0.2,J=2");  // top-2: all are guaranteed
  const EnginePlan p = plan(settings);
  EXPECT_EQ(p.settings.pool, Pool::kGlobal);
  EXPECT_EQ(p.routing.text, "exact");
  EXPECT_TRUE(testing::contains(p.routing.note, "cache-prior is off"));
}

TEST(EnginePlan, KeepsTheHostsChoices) {
  EngineSettings settings;
  settings.pool = Pool::kPerLayer;
  settings.initial_cache = InitialCache::kCold;
  settings.context = 100;
  settings.eviction = parse_eviction("lfu:0.5");
  settings.cache = parse_budget("20MiB");
  const EnginePlan p = plan(settings);
  EXPECT_EQ(p.settings.pool, Pool::kPerLayer);
  EXPECT_EQ(p.settings.initial_cache, InitialCache::kCold);
  EXPECT_EQ(p.settings.context, 100u);
  EXPECT_EQ(p.settings.eviction.decay, 0.5);
  EXPECT_EQ(p.memory.slots_per_layer, 3u);  // 10 slots in 3 layers
  EXPECT_EQ(p.memory.slots, 9u);
}

TEST(EnginePlan, RanksOfBothPrecisionsGetSlots) {
  EngineSettings settings;
  settings.precision = parse_precision("ranks:1");
  const EnginePlan p = plan_with_variants(settings);
  ASSERT_EQ(p.memory.classes.size(), 2u);
  EXPECT_EQ(p.memory.classes[0].slot_bytes, 2 * kMiB);
  EXPECT_EQ(p.memory.classes[1].slot_bytes, kMiB);
  EXPECT_EQ(p.selector.capacity, 12u);
  EXPECT_EQ(p.selector.low_capacity, 12u);
  EXPECT_TRUE(p.lossy);
  EXPECT_EQ(p.note, "the best 1 of 2 experts run in 8da8w, the others in 8da4w");
  // The output does not depend on the cache, so the pool is the same as for exact routing.
  EXPECT_TRUE(p.selector.global);
  EXPECT_FALSE(p.routing.lossy());
}

TEST(EnginePlan, LowPrecisionAloneGetsTheWholeBudget) {
  EngineSettings settings;
  settings.precision = parse_precision("low");
  settings.cache = parse_budget("20MiB");
  const EnginePlan p = plan_with_variants(settings);
  ASSERT_EQ(p.memory.classes.size(), 1u);
  EXPECT_EQ(p.selector.capacity, 0u);
  EXPECT_EQ(p.selector.low_capacity, 20u);
  EXPECT_EQ(p.memory.slots_by_variant(2), (std::vector<uint32_t>{0, 20}));
  EXPECT_EQ(p.note, "all experts run in 8da4w");
  settings.precision = {};
  const EnginePlan full = plan_with_variants(settings);
  EXPECT_EQ(full.memory.slots_by_variant(2), (std::vector<uint32_t>{10, 0}));
  EXPECT_FALSE(full.lossy);
  EXPECT_EQ(full.note, "");
}

TEST(EnginePlan, PrecisionsThatTheBundleDoesNotHaveAreRefused) {
  EngineSettings settings;
  settings.precision = parse_precision("low");
  EXPECT_ERROR(plan(settings), ErrorCode::kUsage, "holds its experts in 8da8w only");
  EXPECT_ERROR(plan(settings), ErrorCode::kUsage, "or set `precision` to full");
  settings.precision = parse_precision("ranks:2");
  EXPECT_ERROR(plan_with_variants(settings), ErrorCode::kUsage,
               "\"ranks:2\" leaves none in low precision");
}

TEST(EnginePlan, ResidentKeepsAllExpertsForAnyCache) {
  EngineSettings settings;
  settings.residency = Residency::kResident;
  settings.routing = parse_routing("cache-prior:0.2");
  const EnginePlan p = plan(settings);
  EXPECT_EQ(p.memory.slots, 24u);
  EXPECT_EQ(p.settings.initial_cache, InitialCache::kWarm);
  for (const std::vector<uint32_t>& experts : p.selector.profile)
    EXPECT_EQ(experts, (std::vector<uint32_t>{0, 1, 2, 3, 4, 5, 6, 7}));
  settings.initial_cache = InitialCache::kCold;
  EXPECT_ERROR(plan(settings), ErrorCode::kUsage, "all experts are in memory");
}

TEST(EnginePlan, FallsBackToProgramsIfSlotsDoNotWork) {
  StoreFacts facts = store();
  facts.no_slots = Error(ErrorCode::kRuntime, "store", "slot 3 ignores its weights");
  EngineSettings settings;
  settings.context = 64;
  const EnginePlan p = plan(settings, facts);
  EXPECT_EQ(p.settings.residency, Residency::kPrograms);
  ASSERT_EQ(p.fallbacks.size(), 1u);
  EXPECT_TRUE(testing::contains(p.fallbacks[0], "residency programs instead of slots"));
  EXPECT_TRUE(testing::contains(p.fallbacks[0], "slot 3 ignores its weights"));
  // Whole programs are larger than packed weights, and are read into memory of their own.
  EXPECT_EQ(p.memory.slot_bytes, align_up(3 * kMiB, kBlobAlignment));
  EXPECT_EQ(p.memory.arena_bytes, plan(settings).memory.arena_bytes + 4 * 3 * kMiB);
  EXPECT_EQ(p.memory.slots, 12u);
}

TEST(EnginePlan, ExpertsThatAreNotPackedNeedNoSlotSize) {
  StoreFacts facts = store();
  facts.slot_bytes = {0, 0};
  facts.no_slots = Error(ErrorCode::kUnsupported, "bundle", "they have no packed weights");
  const EnginePlan p = plan({}, facts);
  EXPECT_EQ(p.settings.residency, Residency::kPrograms);
  EXPECT_EQ(p.memory.slot_bytes, align_up(3 * kMiB, kBlobAlignment));
  EXPECT_EQ(p.memory.slots, 12u);
}

TEST(EnginePlan, ChoosingProgramsIsNotAFallback) {
  StoreFacts facts = store();
  EngineSettings settings;
  settings.residency = Residency::kPrograms;
  EXPECT_TRUE(plan(settings, facts).fallbacks.empty());
  facts.no_slots = Error(ErrorCode::kRuntime, "store", "slot 3 ignores its weights");
  EXPECT_TRUE(plan(settings, facts).fallbacks.empty());
}

TEST(EnginePlan, WithoutAFallbackTheCauseIsTheError) {
  StoreFacts facts = store();
  facts.no_slots = Error(ErrorCode::kUnsupported, "store", "expert 5 fits no slot", "Try else.");
  facts.has_programs = false;
  const Error error = testing::error_of([&] { plan({}, facts); });
  EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
  EXPECT_EQ(error.cause(), "expert 5 fits no slot");
  EXPECT_EQ(error.remedy(), "Try else.");
  facts.has_programs = true;
  EngineSettings resident;
  resident.residency = Residency::kResident;
  EXPECT_ERROR(plan(resident, facts), ErrorCode::kUnsupported, "expert 5 fits no slot");
}

TEST(EnginePlan, TheProfileMustFitTheModel) {
  EngineSettings settings;
  settings.initial_cache = InitialCache::kProfile;
  settings.cache_profile = {{1, {3, 1}}, {3, {}}};
  const EnginePlan p = plan(settings);
  EXPECT_EQ(p.selector.profile, (std::vector<std::vector<uint32_t>>{{3, 1}, {}, {}}));
  const struct {
    std::map<uint32_t, std::vector<uint32_t>> profile;
    const char* cause;
  } cases[] = {{{{0, {1}}}, "layer 0 of the model has no experts"},
               {{{4, {1}}}, "layer 4 of the model has no experts"},
               {{{1, {8}}}, "layer 1 has no expert 8"},
               {{{2, {1, 2, 1}}}, "layer 2 names expert 1 twice"}};
  for (const auto& c : cases) {
    settings.cache_profile = c.profile;
    EXPECT_ERROR(plan(settings), ErrorCode::kUsage, c.cause);
  }
}

TEST(EnginePlan, RefusesSettingsThatDoNotFitTheModelOrTheMemory) {
  EngineSettings settings;
  settings.context = 8193;
  EXPECT_ERROR(plan(settings), ErrorCode::kUsage, "8193 positions are more than the model's 8192");
  settings = {};
  settings.routing = parse_routing("cache-prior:0.2,J=3");
  EXPECT_ERROR(plan(settings), ErrorCode::kUsage, "J=3");
  EXPECT_ERROR(plan({}, store(), 10 * kMiB), ErrorCode::kBudget, "are available");
  settings = {};
  settings.cache = parse_budget("10MiB");  // 5 slots; a token uses 6
  EXPECT_ERROR(plan(settings), ErrorCode::kBudget, "one token uses 6");
  settings.allow_below_cycle = true;
  EXPECT_EQ(plan(settings).memory.slots, 5u);
}

TEST(EnginePlan, SettingsMadeWithoutTheParserAreCheckedToo) {
  EngineSettings settings;
  settings.eviction = parse_eviction("belady");
  EXPECT_ERROR(plan(settings), ErrorCode::kUsage, "simulations only");
  settings = {};
  settings.lanes = 17;
  EXPECT_ERROR(plan(settings), ErrorCode::kUsage, "from 1 to 16");
  settings = {};
  settings.initial_cache = InitialCache::kProfile;
  EXPECT_ERROR(plan(settings), ErrorCode::kUsage, "needs a profile");
  settings = {};
  settings.cache_profile = {{1, {1}}};
  EXPECT_ERROR(plan(settings), ErrorCode::kUsage, "would not be used");
}

TEST(EnginePlan, IsTheSameForTheSameArguments) {
  EngineSettings settings;
  settings.routing = parse_routing("cache-prior:auto");
  const EnginePlan first = plan(settings), second = plan(settings);
  EXPECT_EQ(first.routing.text, second.routing.text);
  EXPECT_EQ(first.memory.total_bytes, second.memory.total_bytes);
  // Planning again from resolved settings changes only the requested routing.
  const EnginePlan again = plan(first.settings);
  EXPECT_EQ(again.routing.text, first.routing.text);
  EXPECT_EQ(again.selector.capacity, first.selector.capacity);
  EXPECT_EQ(again.settings.initial_cache, first.settings.initial_cache);
}

}  // namespace
}  // namespace moe_mobile
