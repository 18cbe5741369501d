// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "cache/slot_table.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

#include "base/expect_error.h"

namespace moe_mobile {
namespace {

using Keys = std::vector<ExpertKey>;

TEST(SlotTable, AssignsAndReleases) {
  SlotTable table(2);
  const ExpertKey a{0, 1, 0}, b{0, 2, 0}, c{1, 1, 0};
  EXPECT_EQ(table.assign(a), 0u);
  EXPECT_EQ(table.assign(b), 1u);
  EXPECT_EQ(table.find(b), 1u);
  EXPECT_EQ(table.find(c), std::nullopt);
  EXPECT_ERROR(table.assign(c), ErrorCode::kRuntime, "expert 1 of layer 1 finds no free slot");
  EXPECT_EQ(table.release(a), 0u);
  EXPECT_EQ(table.free_slots(), 1u);
  EXPECT_ERROR(table.assign(b), ErrorCode::kRuntime, "has a slot already");
  EXPECT_ERROR(table.release(a), ErrorCode::kRuntime, "has no slot");
  EXPECT_EQ(table.assign(c), 0u);
  EXPECT_EQ(table.find(c), 0u);
  EXPECT_EQ(table.find(a), std::nullopt);
}

TEST(SlotTable, ShowsReadyAndReadingSlots) {
  SlotTable table(3);
  const ExpertKey a{0, 1, 0}, b{0, 1, 1};  // two variants of one expert
  table.assign(a);
  table.assign(b);
  table.set_ready(0);
  const auto states = [&] {
    std::vector<SlotState> all;
    for (const Slot& slot : table.slots()) all.push_back(slot.state);
    return all;
  };
  using States = std::vector<SlotState>;
  EXPECT_EQ(states(), (States{SlotState::kReady, SlotState::kReading, SlotState::kFree}));
  EXPECT_EQ(table.slot(0).key, a);
  EXPECT_EQ(table.slots()[1].key, b);
  EXPECT_EQ(table.find(b), 1u);
  table.release(a);
  EXPECT_EQ(states(), (States{SlotState::kFree, SlotState::kReading, SlotState::kFree}));
  EXPECT_EQ(table.assign(a), 0u);
  EXPECT_EQ(table.slot(0).state, SlotState::kReading);
  table.keep_only(Keys{a});
  EXPECT_EQ(states(), (States{SlotState::kReading, SlotState::kFree, SlotState::kFree}));
}

TEST(SlotTable, EqualsTheNaiveModel) {
  std::mt19937 random(31);
  for (int round = 0; round < 30; ++round) {
    const uint32_t slots = 1 + random() % 12;
    SlotTable table(slots);
    std::map<ExpertKey, uint32_t> naive;
    const auto random_key = [&] {
      return ExpertKey{static_cast<uint32_t>(random() % 3), static_cast<uint32_t>(random() % 8), 0};
    };
    for (int step = 0; step < 500; ++step) {
      const ExpertKey k = random_key();
      switch (random() % 8) {
        case 0: {
          Keys wanted;
          for (unsigned i = random() % slots; i > 0; --i) wanted.push_back(random_key());
          table.keep_only(wanted);
          std::map<ExpertKey, uint32_t> kept;
          for (const ExpertKey& w : wanted)
            if (naive.count(w) != 0) kept[w] = naive[w];
          naive = kept;
          break;
        }
        case 1:
        case 2:
        case 3:
          if (naive.count(k) != 0) {
            ASSERT_EQ(table.release(k), naive[k]);
            naive.erase(k);
          }
          break;
        default:
          if (naive.count(k) == 0 && naive.size() < slots) {
            const uint32_t slot = table.assign(k);
            ASSERT_LT(slot, slots);
            for (const auto& [other, used] : naive) ASSERT_NE(used, slot);
            naive[k] = slot;
          }
      }
      ASSERT_EQ(table.free_slots(), slots - naive.size());
      for (const auto& [bound, slot] : naive) ASSERT_EQ(table.find(bound), slot);
    }
  }
}

TEST(SlotTable, ResizesAndReusesSpareSlotsBeforeNewOnes) {
  SlotTable table(3);
  const ExpertKey a{0, 1, 0}, b{0, 2, 0}, c{1, 1, 0}, d{1, 2, 0};
  table.assign(a);
  table.assign(b);
  table.release(a);
  EXPECT_EQ(table.resize(1), (std::vector<uint32_t>{0, 2}));
  EXPECT_EQ(table.free_slots(), 0u);
  EXPECT_ERROR(table.assign(c), ErrorCode::kRuntime, "finds no free slot");
  EXPECT_EQ(table.resize(4), std::vector<uint32_t>());
  EXPECT_EQ(table.free_slots(), 3u);
  EXPECT_EQ(table.assign(c), 2u);
  EXPECT_EQ(table.assign(a), 0u);
  EXPECT_EQ(table.slots().size(), 3u);
  EXPECT_EQ(table.assign(d), 3u);  // a new one
  EXPECT_EQ(table.find(d), 3u);
  EXPECT_EQ(table.free_slots(), 0u);
}

}  // namespace
}  // namespace moe_mobile
