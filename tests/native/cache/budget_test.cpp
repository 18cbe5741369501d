// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "cache/budget.h"

#include <gtest/gtest.h>

#include <random>

#include "base/expect_error.h"

namespace moe_mobile {
namespace {

constexpr uint64_t kMiB = 1 << 20;

TEST(ParseBudget, ParsesAllForms) {
  EXPECT_EQ(parse_budget("auto").kind, Budget::Kind::kAuto);
  EXPECT_EQ(parse_budget("50%").kind, Budget::Kind::kPercent);
  EXPECT_EQ(parse_budget("50%").percent, 50);
  EXPECT_EQ(parse_budget("12.5%").percent, 12.5);
  EXPECT_EQ(parse_budget("100%").percent, 100);
  EXPECT_EQ(parse_budget("512MiB").kind, Budget::Kind::kBytes);
  EXPECT_EQ(parse_budget("512MiB").bytes, 512 * kMiB);
  EXPECT_EQ(parse_budget("1.5GiB").bytes, 1536 * kMiB);
  EXPECT_EQ(parse_budget("1.5 GiB").bytes, 1536 * kMiB);  // as messages write it
  EXPECT_EQ(parse_budget("64KiB").bytes, 65536u);
  EXPECT_EQ(parse_budget("100MB").bytes, 100000000u);
  EXPECT_EQ(parse_budget("200000000").bytes, 200000000u);
  EXPECT_EQ(parse_budget("7B").bytes, 7u);
  EXPECT_EQ(parse_budget("9007199254740993").bytes / 2, 9007199254740993u / 2);
}

TEST(ParseBudget, RefusesOtherTexts) {
  for (const char* text : {"",
                           "auto ",
                           "Auto",
                           "0",
                           "0%",
                           "101%",
                           "-5MiB",
                           "+5MiB",
                           "5mib",
                           "MiB",
                           "1e9",
                           "1.2.3MiB",
                           ".",
                           "%",
                           "nan",
                           "inf",
                           "0x10",
                           "5%%",
                           "5MiBx",
                           "99999999999999999999",
                           "9999999999TiB",
                           "1,5GiB",
                           "0.1B",
                           "33.3",
                           "50",
                           "2048"}) {
    EXPECT_ERROR(parse_budget(text), ErrorCode::kUsage, "invalid size");
  }
}

TEST(ParseBudget, SaysWhyASizeCannotBe) {
  for (const char* text : {"200%", "100.1%"})
    EXPECT_ERROR(parse_budget(text), ErrorCode::kUsage, "more than all experts");
  for (const char* text : {"0%", "0.0%", "0", "0MiB"})
    EXPECT_ERROR(parse_budget(text), ErrorCode::kUsage, "it would hold nothing");
}

TEST(ParseBudget, AsksAboutNumbersWithoutUnit) {
  const auto remedy = [](const char* text) -> std::string {
    try {
      parse_budget(text);
    } catch (const Error& error) {
      return error.remedy();
    }
    return "";
  };
  EXPECT_EQ(remedy("50").rfind("Was 50% meant? ", 0), 0u);
  EXPECT_EQ(remedy("0.5").rfind("Was 50% meant? ", 0), 0u);
  EXPECT_EQ(remedy("33.3").rfind("Was 33.3% meant? ", 0), 0u);
  EXPECT_EQ(remedy("2048").rfind("Was 2048MiB meant? ", 0), 0u);
  EXPECT_EQ(remedy("65536"), "");
  EXPECT_EQ(parse_budget("65536").bytes, 65536u);
}

TEST(ParseBudget, RoundTripsThroughText) {
  const char* const texts[] = {"auto", "50%",    "12.5%", "33.3%", "12.34%",
                               "1GiB", "512MiB", "3B",    "65535B"};
  for (const char* text : texts) {
    const Budget budget = parse_budget(text);
    const Budget again = parse_budget(to_text(budget));
    EXPECT_EQ(again.kind, budget.kind) << text;
    EXPECT_EQ(again.bytes, budget.bytes) << text;
    EXPECT_EQ(again.percent, budget.percent) << text;
  }
  for (const char* text : {"auto", "33.3%", "12.34%", "1GiB", "512MiB", "100000001"})
    EXPECT_EQ(to_text(parse_budget(text)), text);
  EXPECT_EQ(to_text(parse_budget("1.5GiB")), "1536MiB");
}

TEST(CacheSlots, AShareIsTheSameInBothPools) {
  // 33 % of 32 experts are 10.56.
  const Budget third = parse_budget("33%");
  EXPECT_EQ(experts_of_share(third.percent, 32), 10u);
  const CacheSlots one = cache_slots(third, {6, 32, 4096, false});
  EXPECT_EQ(one.all, 60u);
  EXPECT_EQ(one.per_layer, 0u);
  const CacheSlots each = cache_slots(third, {6, 32, 4096, true});
  EXPECT_EQ(each.all, 60u);
  EXPECT_EQ(each.per_layer, 10u);
}

TEST(CacheSlots, BytesAreDividedOnlyIfThePoolsAre) {
  const Budget bytes{Budget::Kind::kBytes, 63 * 4096 + 4095, 0};
  EXPECT_EQ(cache_slots(bytes, {6, 32, 4096, false}).all, 63u);
  EXPECT_EQ(cache_slots(bytes, {6, 32, 4096, true}).all, 60u);
  EXPECT_EQ(cache_slots(bytes, {6, 32, 4096, true}).per_layer, 10u);
  EXPECT_EQ(cache_slots(bytes, {6, 8, 4096, true}).all, 48u);  // all there are
}

TEST(CacheSlots, AShareWrittenForSlotsHoldsThoseSlots) {
  EXPECT_EQ(share_text(3, 8), "37.5%");
  EXPECT_EQ(share_text(1, 3), "33.333333333333%");
  EXPECT_EQ(experts_of_share(29, 100), 29u);  // not 28.999999999999996
  std::mt19937 random(7);
  for (int round = 0; round < 20000; ++round) {
    const uint32_t experts = 1 + random() % 4096, slots = 1 + random() % experts;
    const Budget budget = parse_budget(share_text(slots, experts));
    ASSERT_EQ(experts_of_share(budget.percent, experts), slots) << slots << " of " << experts;
  }
}

}  // namespace
}  // namespace moe_mobile
