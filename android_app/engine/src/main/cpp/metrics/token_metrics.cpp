// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "metrics/token_metrics.h"

#include <algorithm>
#include <vector>

namespace moe_mobile {
namespace {

// The smallest of the sorted values such that at least `percent` of them are not larger.
uint64_t percentile(const std::vector<uint64_t>& sorted, uint64_t percent) {
  if (sorted.empty()) return 0;
  const uint64_t rank = (sorted.size() * percent + 99) / 100;
  return sorted[rank - 1];
}

}  // namespace

double RunMetrics::hit_rate() const {
  const uint64_t uses = hits + misses + dropped;
  return uses == 0 ? 0.0 : static_cast<double>(hits) / static_cast<double>(uses);
}

RunMetrics aggregate(Span<const TokenMetrics> tokens) {
  RunMetrics run;
  std::vector<uint64_t> totals;
  totals.reserve(tokens.size());
  for (const TokenMetrics& t : tokens) {
    ++run.tokens;
    for (const auto& cost : kCosts) run.*cost.member += t.*cost.member;
    totals.push_back(t.total_ns);
  }
  std::sort(totals.begin(), totals.end());
  run.p50_ns = percentile(totals, 50);
  run.p95_ns = percentile(totals, 95);
  run.p99_ns = percentile(totals, 99);
  return run;
}

}  // namespace moe_mobile
