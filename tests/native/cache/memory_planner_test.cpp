// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "cache/memory_planner.h"

#include <gtest/gtest.h>

#include <random>

#include "base/expect_error.h"
#include "base/temporary_folder.h"
#include "base/units.h"

namespace moe_mobile {
namespace {

MemoryPlanInputs inputs() {
  MemoryPlanInputs in;
  in.classes = {{0, "8da8w", 4, 5 * kMiB}};
  in.experts = 60;
  in.moe_layers = 4;
  in.dense_bytes = 100 * kMiB;
  in.kv_bytes = 20 * kMiB;
  in.arena_bytes = 30 * kMiB;
  in.available_bytes = 4000 * kMiB;
  return in;
}

TEST(MemoryPlan, AShareIsWholeExpertsOfEachLayer) {
  MemoryPlanInputs in = inputs();
  in.budget = parse_budget("50%");
  MemoryPlan plan = plan_memory(in);
  EXPECT_EQ(plan.slots, 120u);
  EXPECT_EQ(plan.slots_per_layer, 0u);
  EXPECT_EQ(plan.token_cycle_slots, 16u);
  EXPECT_EQ(plan.experts_budget_bytes, 120 * 5 * kMiB);
  EXPECT_EQ(plan.total_bytes, (120 * 5 + 150) * kMiB);
  in.experts = 25;
  EXPECT_EQ(plan_memory(in).slots, 48u);
  in.per_layer = true;
  EXPECT_EQ(plan_memory(in).slots, 48u);
  EXPECT_EQ(plan_memory(in).slots_per_layer, 12u);
  in.budget = parse_budget("100%");
  EXPECT_EQ(plan_memory(in).slots, 100u);
}

TEST(MemoryPlan, BytesRoundDownAndStopAtAllExperts) {
  MemoryPlanInputs in = inputs();
  in.budget = parse_budget("104MiB");
  EXPECT_EQ(plan_memory(in).slots, 20u);
  in.budget = parse_budget("1000GiB");
  const MemoryPlan plan = plan_memory(in);
  EXPECT_EQ(plan.slots, 240u);
  EXPECT_EQ(plan.total_bytes, (240 * 5 + 150) * kMiB);
}

TEST(MemoryPlan, CountsWhatLoadingTakesForAMoment) {
  MemoryPlanInputs in = inputs();
  in.budget = parse_budget("50%");
  const uint64_t running = plan_memory(in).total_bytes;
  in.loading_bytes = running - in.dense_bytes;  // as much as the rest, which comes later
  EXPECT_EQ(plan_memory(in).total_bytes, running);
  ++in.loading_bytes;
  EXPECT_EQ(plan_memory(in).total_bytes, running + 1);
  in.available_bytes = running;
  EXPECT_ERROR(plan_memory(in), ErrorCode::kBudget, "while the dense programs are loaded");
}

TEST(MemoryPlan, AutoLeavesFifteenPercent) {
  MemoryPlanInputs in = inputs();
  in.available_bytes = 1000 * kMiB;
  const MemoryPlan plan = plan_memory(in);
  EXPECT_EQ(plan.slots, (850u - 150u) / 5u);
  EXPECT_LE(plan.total_bytes, 850 * kMiB);
  in.available_bytes = 100 * kMiB;  // less than everything else needs
  EXPECT_ERROR(plan_memory(in), ErrorCode::kBudget, "of the 100.0 MiB that are available");
}

TEST(MemoryPlan, RefusesLessThanATokenCycleUnlessAllowed) {
  MemoryPlanInputs in = inputs();
  in.budget = parse_budget("79MiB");
  EXPECT_ERROR(plan_memory(in), ErrorCode::kBudget,
               "79.0 MiB hold 15 of 240 experts (5.0 MiB each), one token uses 16");
  EXPECT_ERROR(plan_memory(in), ErrorCode::kBudget,
               "at least 80.0 MiB, or set `allow_below_cycle`");
  in.allow_below_cycle = true;
  EXPECT_EQ(plan_memory(in).slots, 15u);
  in.budget = parse_budget("19MiB");
  EXPECT_ERROR(plan_memory(in), ErrorCode::kBudget, "one layer needs 4 at once");
  in.budget = parse_budget("20MiB");
  EXPECT_EQ(plan_memory(in).slots, 4u);
  in.per_layer = true;
  in.budget = parse_budget("79MiB");
  EXPECT_ERROR(plan_memory(in), ErrorCode::kBudget,
               "(5.0 MiB each): each layer has room for 3, and needs 4 at once");
}

TEST(MemoryPlan, RefusesMoreThanTheAvailableMemory) {
  MemoryPlanInputs in = inputs();
  in.budget = parse_budget("100%");
  in.available_bytes = 1349 * kMiB;
  EXPECT_ERROR(plan_memory(in), ErrorCode::kBudget, "Lower the cache budget");
  in.available_bytes = 1350 * kMiB;
  EXPECT_EQ(plan_memory(in).slots, 240u);
}

TEST(MemoryPlan, ModelsWithoutExpertsNeedNoSlots) {
  MemoryPlanInputs in = inputs();
  in.moe_layers = 0;
  in.classes[0].slot_bytes = 0;
  const MemoryPlan plan = plan_memory(in);
  EXPECT_EQ(plan.slots, 0u);
  EXPECT_EQ(plan.total_bytes, 150 * kMiB);
}

// For any numbers, a plan that does not throw keeps its guarantees, and nothing overflows.
TEST(MemoryPlan, HoldsItsGuaranteesForRandomNumbers) {
  std::mt19937_64 random(41);
  const auto any = [&] { return random() >> random() % 64; };
  int granted = 0;
  for (int round = 0; round < 20000; ++round) {
    MemoryPlanInputs in;
    const auto top_k = static_cast<uint32_t>(1 + any() % 64);
    in.classes = {{0, "8da8w", top_k, any() | 1}};
    in.experts = static_cast<uint32_t>(any());
    in.moe_layers = static_cast<uint32_t>(any() % 5000);
    in.dense_bytes = any();
    in.kv_bytes = any();
    in.arena_bytes = any();
    in.method_bytes = any();
    in.available_bytes = any();
    in.allow_below_cycle = random() % 2 == 0;
    in.budget.kind = static_cast<Budget::Kind>(random() % 3);
    in.budget.bytes = any();
    in.budget.percent = static_cast<double>(1 + random() % 100);
    in.per_layer = random() % 2 == 0;
    try {
      const MemoryPlan plan = plan_memory(in);
      ++granted;
      if (in.budget.kind == Budget::Kind::kPercent) {
        ASSERT_EQ(plan.slots,
                  uint64_t{experts_of_share(in.budget.percent, in.experts)} * in.moe_layers);
      }
      ASSERT_EQ(plan.slots_per_layer * in.moe_layers, in.per_layer ? plan.slots : 0);
      ASSERT_LE(plan.total_bytes, in.available_bytes);
      ASSERT_LE(plan.slots, plan.num_experts);
      if (plan.num_experts > 0) {
        ASSERT_GE(plan.slots, top_k);
      }
      if (!in.allow_below_cycle) {
        ASSERT_GE(plan.slots, plan.token_cycle_slots);
      }
      const auto total = static_cast<unsigned __int128>(plan.slots) * plan.slot_bytes +
                         static_cast<unsigned __int128>(plan.slots) * in.method_bytes +
                         in.dense_bytes + in.kv_bytes + in.arena_bytes;
      ASSERT_TRUE(total == plan.total_bytes);
      describe(plan);
    } catch (const Error& error) {
      ASSERT_EQ(error.code(), ErrorCode::kBudget);
      ASSERT_FALSE(error.remedy().empty());
    }
  }
  EXPECT_GT(granted, 1000);
}

// 3 of 4 ranks in slots of 5 MiB, the other in slots of 2 MiB: 17 MiB for a slot of each rank.
MemoryPlanInputs two_classes(const char* budget) {
  MemoryPlanInputs in = inputs();
  in.classes = {{0, "8da8w", 3, 5 * kMiB}, {1, "8da4w", 1, 2 * kMiB}};
  in.budget = parse_budget(budget);
  return in;
}

TEST(MemoryPlan, ClassesShareABudgetByTheirRanks) {
  MemoryPlan plan = plan_memory(two_classes("170MiB"));
  ASSERT_EQ(plan.classes.size(), 2u);
  EXPECT_EQ(plan.classes[0].slots, 30u);
  EXPECT_EQ(plan.classes[1].slots, 10u);
  EXPECT_EQ(plan.classes[0].token_cycle_slots, 12u);
  EXPECT_EQ(plan.classes[1].token_cycle_slots, 4u);
  EXPECT_EQ(plan.slots, 40u);
  EXPECT_EQ(plan.token_cycle_slots, 16u);
  EXPECT_EQ(plan.total_bytes, (170 + 150) * kMiB);
  EXPECT_EQ(plan.slots_by_variant(3), (std::vector<uint32_t>{30, 10, 0}));
  // The rest of the budget goes to the first class for which it is enough.
  plan = plan_memory(two_classes("179MiB"));
  EXPECT_EQ(plan.classes[0].slots, 31u);
  EXPECT_EQ(plan.classes[1].slots, 11u);
  MemoryPlanInputs in = two_classes("170MiB");
  in.per_layer = true;
  plan = plan_memory(in);
  EXPECT_EQ(plan.classes[0].slots_per_layer, 7u);
  EXPECT_EQ(plan.classes[1].slots_per_layer, 2u);
}

TEST(MemoryPlan, AShareCountsTheExpertsOfAllClasses) {
  MemoryPlan plan = plan_memory(two_classes("50%"));
  EXPECT_EQ(plan.experts_budget_bytes, 120 * 7 * kMiB);
  EXPECT_EQ(plan.classes[0].slots, 148u);  // 49 per rank, and 7 MiB buy one more of both
  EXPECT_EQ(plan.classes[1].slots, 50u);
  // A class that holds all its experts leaves the rest to the other.
  plan = plan_memory(two_classes("90%"));
  EXPECT_EQ(plan.classes[0].slots, 240u);
  EXPECT_EQ(plan.classes[1].slots, 156u);
  plan = plan_memory(two_classes("100%"));
  EXPECT_EQ(plan.classes[0].slots, 240u);
  EXPECT_EQ(plan.classes[1].slots, 240u);
}

TEST(MemoryPlan, EveryClassHoldsWhatATokenUses) {
  EXPECT_ERROR(plan_memory(two_classes("67MiB")), ErrorCode::kBudget, "at least 68.0 MiB");
  EXPECT_EQ(plan_memory(two_classes("68MiB")).classes[1].slots, 4u);
  MemoryPlanInputs in = two_classes("17MiB");
  in.allow_below_cycle = true;
  EXPECT_EQ(plan_memory(in).slots, 4u);
  in.budget = parse_budget("16MiB");
  EXPECT_ERROR(plan_memory(in), ErrorCode::kBudget, "one layer needs 1 in 8da4w at once");
}

TEST(MemoryPlan, DescribesEachClass) {
  EXPECT_EQ(
      describe(plan_memory(two_classes("170MiB"))),
      "experts    8da8w, 150.0 MiB: 30 of 240 experts (5.0 MiB each), 12 %; one token uses 12\n"
      "           8da4w, 20.0 MiB: 10 of 240 experts (2.0 MiB each), 4 %; one token uses 4\n"
      "dense      100.0 MiB\n"
      "KV cache   20.0 MiB\n"
      "arenas     30.0 MiB\n"
      "total      320.0 MiB of 3.91 GiB available\n");
}

TEST(MemoryPlan, DescribesItself) {
  MemoryPlanInputs in = inputs();
  in.budget = parse_budget("50%");
  EXPECT_EQ(describe(plan_memory(in)),
            "experts    600.0 MiB: 120 of 240 experts (5.0 MiB each), 50 %; one token uses 16\n"
            "dense      100.0 MiB\n"
            "KV cache   20.0 MiB\n"
            "arenas     30.0 MiB\n"
            "total      750.0 MiB of 3.91 GiB available\n");
  EXPECT_EQ(format_bytes(812), "812 B");
  EXPECT_EQ(format_bytes(1536), "1.5 KiB");
}

TEST(FormatBytes, ChoosesTheUnitAfterRounding) {
  EXPECT_EQ(format_bytes(kMiB - 1), "1.0 MiB");
  EXPECT_EQ(format_bytes(kMiB - 1, Rounding::kDown), "1023.9 KiB");
  EXPECT_EQ(format_bytes(kMiB + 1, Rounding::kUp), "1.1 MiB");
  EXPECT_EQ(format_bytes(kMiB + 1, Rounding::kDown), "1.0 MiB");
  EXPECT_EQ(format_bytes(1280), "1.2 KiB");  // ties go to the even digit
  EXPECT_EQ(format_bytes(1023, Rounding::kUp), "1023 B");
  EXPECT_EQ(format_bytes(UINT64_MAX), "17179869184.00 GiB");
}

TEST(FormatBytes, RoundedUpItIsEnoughAndRoundedDownItIsThere) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 20000; ++i) {
    const uint64_t bytes = (random() >> 8 >> random() % 40) + 1;
    if (bytes > 1ull << 56) continue;
    const std::string up = format_bytes(bytes, Rounding::kUp);
    const std::string down = format_bytes(bytes, Rounding::kDown);
    SCOPED_TRACE(std::to_string(bytes) + ": " + down + ", " + up);
    const auto size = [](const std::string& text) {
      const bool bare = text.substr(text.size() - 2) == " B";
      return bare ? std::stoull(text) : parse_budget(text).bytes;
    };
    EXPECT_GE(size(up), bytes);
    EXPECT_LE(size(down), bytes);
    EXPECT_LE(size(up) - size(down), bytes / 10 + 1);
  }
}

// The budget that a remedy names, which is then given.
std::string budget_asked_for(const MemoryPlanInputs& in) {
  try {
    plan_memory(in);
  } catch (const Error& error) {
    const std::string before = "at least ", remedy = error.remedy();
    const size_t begin = remedy.find(before) + before.size();
    return remedy.substr(begin, remedy.find("iB", begin) + 2 - begin);
  }
  return "";
}

TEST(MemoryPlan, TheBudgetThatIsAskedForIsEnough) {
  std::mt19937_64 random(2);
  for (int i = 0; i < 2000; ++i) {
    MemoryPlanInputs in = inputs();
    in.classes[0].slot_bytes = 4096 * (1 + random() % 2000);
    if (i % 2 == 1) in.classes.push_back({1, "8da4w", 2, 4096 * (1 + random() % 1000)});
    in.moe_layers = static_cast<uint32_t>(1 + random() % 40);
    in.per_layer = random() % 2 == 0;
    in.available_bytes = 1ull << 50;
    in.budget = parse_budget("4096B");
    const std::string asked = budget_asked_for(in);
    in.budget = parse_budget(asked);
    EXPECT_EQ(budget_asked_for(in), "") << asked << " was asked for";
  }
}

TEST(MemoryPlan, WhatIsNeededNeverLooksLikeWhatThereIs) {
  MemoryPlanInputs in = inputs();
  in.budget = parse_budget("50%");
  in.available_bytes = plan_memory(in).total_bytes - 1;
  EXPECT_ERROR(plan_memory(in), ErrorCode::kBudget, "750.0 MiB are needed");
  EXPECT_ERROR(plan_memory(in), ErrorCode::kBudget, "749.9 MiB are available");
}

TEST(AvailableToResize, CountsWhatHoldsMemory) {
  MemoryPlanInputs in = inputs();
  in.budget = parse_budget("50%");
  in.classes.push_back({1, "8da4w", 2, 3 * kMiB});
  const MemoryPlan plan = plan_memory(in);
  const uint64_t dense = 100 * kMiB;
  const Budget share = parse_budget("100%"), automatic = parse_budget("auto");
  // Neither KV cache nor arenas count.
  EXPECT_EQ(available_to_resize(share, plan, std::vector<uint32_t>{0, 0}, 2000 * kMiB),
            2000 * kMiB + dense);
  EXPECT_EQ(available_to_resize(share, plan, std::vector<uint32_t>{7, 9}, 2000 * kMiB),
            2000 * kMiB + dense + (7 * 5 + 9 * 3) * kMiB);
  EXPECT_EQ(available_to_resize(automatic, plan, std::vector<uint32_t>{7, 9}, kMiB),
            kMiB + dense + (7 * 5 + 9 * 3) * kMiB);
}

TEST(AvailableToResize, NeverRefusesAPlanThatNeedsNoMoreThanThePresentOne) {
  MemoryPlanInputs in = inputs();
  in.budget = parse_budget("50%");
  const MemoryPlan now = plan_memory(in);
  const auto resized = [&](const char* budget) {  // nothing was used, and nothing is free
    in.budget = parse_budget(budget);
    in.available_bytes = available_to_resize(in.budget, now, std::vector<uint32_t>{0, 0}, 0);
    return plan_memory(in);
  };
  EXPECT_EQ(resized("25%").slots, 60u);
  EXPECT_EQ(resized("50%").total_bytes, now.total_bytes);
  EXPECT_ERROR(resized("52%"), ErrorCode::kBudget, "are available");
}

class AvailableMemory : public ::testing::Test {
 protected:
  void SetUp() override {
    write("proc/meminfo", "MemTotal:  9000 kB\nMemFree: 10 kB\nMemAvailable:    8000 kB\n");
  }
  void write(const std::string& name, const std::string& content) {
    testing::write_file(folder_.file(name), content);
  }
  uint64_t kib() { return available_memory(folder_.file("proc"), folder_.file("cg")) / 1024; }
  testing::TemporaryFolder folder_;
};

TEST_F(AvailableMemory, IsTheKernelsMemAvailable) {
  EXPECT_EQ(kib(), 8000u);
  EXPECT_GT(available_memory(), 1u << 20);
  EXPECT_ERROR(available_memory(folder_.file("none")), ErrorCode::kIo, "none/meminfo");
}

TEST_F(AvailableMemory, IsLimitedByVersion2GroupsAndTheirParents) {
  write("proc/self/cgroup", "0::/app/session\n");
  write("cg/app/session/memory.max", "max\n");
  write("cg/app/session/memory.current", "1000\n");
  EXPECT_EQ(kib(), 8000u);
  write("cg/app/memory.max", "6144000\n");  // 6000 KiB
  write("cg/app/memory.current", "2048000\n");
  EXPECT_EQ(kib(), 4000u);
  write("cg/app/memory.stat", "anon 7\ninactive_file 1024000\nactive_file 512000\n");
  EXPECT_EQ(kib(), 5500u);
  write("cg/app/session/memory.max", "1024000\n");
  write("cg/app/session/memory.current", "2048000\n");
  EXPECT_EQ(kib(), 0u);
}

TEST_F(AvailableMemory, SeesTheGroupAtTheRootOfAContainer) {
  write("proc/self/cgroup", "0::/\n");
  write("cg/memory.max", "2048000\n");
  write("cg/memory.current", "1024000\n");
  EXPECT_EQ(kib(), 1000u);
}

TEST_F(AvailableMemory, IsLimitedByVersion1Groups) {
  write("proc/self/cgroup", "5:cpuset:/x\n4:cpu,memory:/docker/a:b\n");
  write("cg/memory/docker/a:b/memory.limit_in_bytes", "3072000\n");
  write("cg/memory/docker/a:b/memory.usage_in_bytes", "2048000\n");
  write("cg/memory/docker/a:b/memory.stat", "inactive_file 5\ntotal_inactive_file 1024000\n");
  EXPECT_EQ(kib(), 2000u);
}

}  // namespace
}  // namespace moe_mobile
