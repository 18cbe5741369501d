// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <stdexcept>
#include <thread>

#include "base/make_in_order.h"

namespace moe_mobile {
namespace {

using Item = std::unique_ptr<size_t>;  // can only be moved

TEST(MakeInOrder, TakesAllInOrderAndRunsNotFarAhead) {
  for (const unsigned workers : {0u, 1u, 3u, 8u})
    for (const size_t count : {size_t{0}, size_t{1}, size_t{5}, size_t{200}}) {
      std::atomic<size_t> made{0};
      size_t taken = 0;
      MakeInOrder<Item>::run(
          count, workers,
          [&](unsigned worker, size_t i) {
            EXPECT_LT(worker, std::max(1u, workers));
            ++made;
            return std::make_unique<size_t>(i * i);
          },
          [&](size_t i, Item item) {
            EXPECT_EQ(i, taken);
            EXPECT_EQ(*item, i * i);
            ++taken;
            EXPECT_LE(made, taken + std::max(1u, 2 * workers));
          });
      EXPECT_EQ(taken, count);
      EXPECT_EQ(made, count);
    }
}

TEST(MakeInOrder, MakesAsManyAtOnceAsThereAreWorkers) {
  constexpr size_t kWorkers = 3;
  std::atomic<size_t> begun{0};
  size_t met = 0;
  const auto give_up = std::chrono::steady_clock::now() + std::chrono::minutes(5);
  MakeInOrder<bool>::run(
      kWorkers, kWorkers,
      [&](unsigned, size_t) {  // none ends before all have begun
        ++begun;
        while (begun < kWorkers && std::chrono::steady_clock::now() < give_up)
          std::this_thread::sleep_for(std::chrono::milliseconds(1));
        return begun == kWorkers;
      },
      [&](size_t, bool all) { met += all; });
  EXPECT_EQ(met, kWorkers);
}

TEST(MakeInOrder, EndsWithTheFirstFailureOfEither) {
  for (const unsigned workers : {1u, 4u}) {
    size_t taken = 0;
    const auto run = [&](size_t make_fails_at, size_t take_fails_at) {
      taken = 0;
      MakeInOrder<size_t>::run(
          1000, workers,
          [&](unsigned, size_t i) {
            if (i == make_fails_at) throw std::runtime_error("make");
            return i;
          },
          [&](size_t i, size_t) {
            if (i == take_fails_at) throw std::runtime_error("take");
            ++taken;
          });
    };
    EXPECT_THROW(run(7, 1000), std::runtime_error);
    EXPECT_LE(taken, 7u);
    EXPECT_THROW(run(1000, 5), std::runtime_error);
    EXPECT_EQ(taken, 5u);
  }
}

}  // namespace
}  // namespace moe_mobile
