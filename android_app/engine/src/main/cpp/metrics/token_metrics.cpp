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
    run.total_ns += t.total_ns;
    run.dense_ns += t.dense_ns;
    run.attention_ns += t.attention_ns;
    run.expert_ns += t.expert_ns;
    run.wait_ns += t.wait_ns;
    run.router_ns += t.router_ns;
    run.head_ns += t.head_ns;
    run.hits += t.hits;
    run.misses += t.misses;
    run.dropped += t.dropped;
    run.bytes_read += t.bytes_read;
    run.bytes_wasted += t.bytes_wasted;
    run.slots_changed_by_routing += t.slots_changed_by_routing;
    totals.push_back(t.total_ns);
  }
  std::sort(totals.begin(), totals.end());
  run.p50_ns = percentile(totals, 50);
  run.p95_ns = percentile(totals, 95);
  run.p99_ns = percentile(totals, 99);
  return run;
}

}  // namespace moe_mobile
