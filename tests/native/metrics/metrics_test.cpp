// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "base/expect_error.h"
#include "base/temporary_folder.h"
#include "metrics/json.h"
#include "metrics/process_memory.h"
#include "metrics/token_metrics.h"

namespace moe_mobile {
namespace {

TokenMetrics token(uint64_t total) {
  TokenMetrics t;
  t.token = 5;
  t.total_ns = total;
  t.dense_ns = 1;
  t.attention_ns = 2;
  t.expert_ns = 3;
  t.wait_ns = 4;
  t.router_ns = 5;
  t.head_ns = 6;
  t.hits = 3;
  t.misses = 1;
  t.dropped = 4;
  t.bytes_read = 1000;
  t.slots_changed_by_routing = 2;
  return t;
}

TEST(RunMetrics, SumsAndRanks) {
  std::vector<TokenMetrics> tokens;
  for (uint64_t total = 200; total >= 1; --total) tokens.push_back(token(total));
  const RunMetrics run = aggregate(tokens);
  EXPECT_EQ(run.tokens, 200u);
  EXPECT_EQ(run.total_ns, 200u * 201u / 2u);
  for (const auto& cost : kCosts) {
    if (cost.member == &Costs::total_ns) continue;
    EXPECT_EQ(run.*cost.member, 200 * token(1).*cost.member) << cost.name;
    EXPECT_GT(run.*cost.member, 0u) << cost.name;
  }
  EXPECT_EQ(run.p50_ns, 100u);
  EXPECT_EQ(run.p95_ns, 190u);
  EXPECT_EQ(run.p99_ns, 198u);
  EXPECT_DOUBLE_EQ(run.hit_rate(), 0.375);
}

TEST(RunMetrics, NoTokensAndOneToken) {
  const RunMetrics none = aggregate({});
  EXPECT_EQ(none.p50_ns, 0u);
  EXPECT_EQ(none.hit_rate(), 0);
  const std::vector<TokenMetrics> one{token(7)};
  EXPECT_EQ(aggregate(one).p50_ns, 7u);
  EXPECT_EQ(aggregate(one).p99_ns, 7u);
}

TEST(RunMetrics, PercentilesAreByNearestRank) {
  std::mt19937 random(61);
  for (int round = 0; round < 100; ++round) {
    std::vector<TokenMetrics> tokens(1 + random() % 150);
    for (TokenMetrics& t : tokens) t.total_ns = random() % 50;
    const RunMetrics run = aggregate(tokens);
    const auto at_most = [&](uint64_t bound) {
      return 100 * std::count_if(tokens.begin(), tokens.end(),
                                 [&](const TokenMetrics& t) { return t.total_ns <= bound; });
    };
    const auto n = static_cast<int64_t>(tokens.size());
    for (const auto& [percent, value] :
         {std::pair{50, run.p50_ns}, {95, run.p95_ns}, {99, run.p99_ns}}) {
      ASSERT_GE(at_most(value), percent * n);
      if (value > 0) {
        ASSERT_LT(at_most(value - 1), percent * n);
      }
    }
  }
}

TEST(MetricsJson, HoldsEveryMember) {
  const nlohmann::json t = token(9);
  EXPECT_EQ(t.size(), 13u);
  EXPECT_EQ(t["total_ns"], 9);
  EXPECT_EQ(t["slots_changed_by_routing"], 2);
  const nlohmann::json run = aggregate(std::vector<TokenMetrics>{token(9)});
  EXPECT_EQ(run.size(), 17u);
  EXPECT_EQ(run["p95_ns"], 9);
  EXPECT_EQ(run["hit_rate"], 0.375);
  const nlohmann::json memory = ProcessMemory{};
  EXPECT_EQ(memory.size(), 6u);
}

TEST(ProcessMemory, ReadsThisProcess) {
  const ProcessMemory before = read_process_memory();
  EXPECT_GT(before.rss, 1u << 20);
  EXPECT_GE(before.peak_rss, before.rss);
  EXPECT_LE(before.rss_anon + before.rss_file, before.rss + (1u << 20));
  const std::vector<char> block(64 << 20, 1);
  const ProcessMemory after = read_process_memory();
  EXPECT_GT(after.rss_anon, before.rss_anon + (60u << 20));
  EXPECT_EQ(block[5], 1);
}

TEST(ProcessMemory, ReadsTheKernelsFormat) {
  testing::TemporaryFolder folder;
  testing::write_file(folder.file("status"),
                      "Name:\ta b\nVmHWM:\t  30 kB\nVmRSS:\t  20 kB\nRssAnon:\t 12 kB\n"
                      "RssFile:\t 8 kB\nVmSwap:\t 1 kB\n");
  testing::write_file(folder.file("stat"), "12 (a) b (c) S 1 2 3 4 5 6 7 8 99 10 11\n");
  const ProcessMemory memory = read_process_memory(folder.path());
  EXPECT_EQ(memory.rss_anon, 12u * 1024);
  EXPECT_EQ(memory.rss_file, 8u * 1024);
  EXPECT_EQ(memory.rss, 20u * 1024);
  EXPECT_EQ(memory.peak_rss, 30u * 1024);
  EXPECT_EQ(memory.swap, 1024u);
  EXPECT_EQ(memory.major_faults, 99u);
  EXPECT_ERROR(read_process_memory(folder.file("none")), ErrorCode::kIo, "none/status");
}

}  // namespace
}  // namespace moe_mobile
