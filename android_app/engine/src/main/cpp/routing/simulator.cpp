// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "routing/simulator.h"

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include "base/error.h"
#include "cache/expert_pool.h"
#include "routing/router.h"
#include "routing/top_k.h"

namespace moe_mobile {
namespace {

constexpr uint64_t kBetween = 1u << 16;  // token-layers

class Simulator {
 public:
  Simulator(const Simulation& simulation, const SimulatedSlots& slots)
      : in_(simulation),
        out_(slots),
        experts_(simulation.router.num_experts),
        top_k_(simulation.router.top_k),
        router_(simulation.router, simulation.routing, simulation.layers, simulation.capacity),
        loaded_at_(size_t{simulation.layers} * experts_),
        kept_(top_k_),
        missed_(top_k_) {
    if (in_.capacity < top_k_)
      throw Error(ErrorCode::kBudget, Setting{"capacity"},
                  "a cache for " + std::to_string(in_.capacity) +
                      " experts per layer does not hold the " + std::to_string(top_k_) +
                      " of one token",
                  "Give at least top_k.");
    const uint32_t pools = in_.global ? 1 : in_.layers, layers = in_.global ? in_.layers : 1;
    pools_.assign(pools, ExpertPool(layers * experts_, layers * in_.capacity, in_.eviction));
    totals_.routing = router_.routing().text;
    totals_.note = router_.routing().note;
  }

  SimulatedTotals run(const std::function<void()>& between) {
    if (in_.eviction.kind == EvictionOptions::Kind::kBelady) look_ahead(between);
    uint64_t done = 0;
    for (uint64_t token = 0; token < in_.tokens; ++token)
      for (uint32_t layer = 0; layer < in_.layers; ++layer) {
        if (done++ % kBetween == 0) between();
        step(token, layer);
      }
    return totals_;
  }

 private:
  // One token's logits in one layer.
  const float* row(uint64_t token, uint32_t layer) const {
    const float* row = in_.logits + (token * in_.layers + layer) * experts_;
    const uint32_t bad = first_not_finite(row, experts_);
    if (bad < experts_)
      throw Error(ErrorCode::kUsage, Setting{"logits"},
                  "token " + std::to_string(token) + ", layer " + std::to_string(layer) +
                      ", expert " + std::to_string(bad) + " is " + std::to_string(row[bad]),
                  "Give finite logits.");
    return row;
  }

  void step(uint64_t token, uint32_t layer) {
    ExpertPool& pool = pools_[in_.global ? 0 : layer];
    const uint32_t base = in_.global ? layer * experts_ : 0;
    router_.decide(layer, row(token, layer), pool.cached() + base, &selection_);

    const uint64_t slot = (token * in_.layers + layer) * top_k_;
    uint32_t kept = 0;
    for (uint32_t rank = 0; rank < top_k_; ++rank) {
      const uint32_t expert = selection_.experts[rank];
      out_.selected[slot + rank] = static_cast<int32_t>(expert);
      out_.dropped[slot + rank] = selection_.dropped[rank];
      out_.missed[slot + rank] = pool.cached()[base + expert] ^ 1;
      totals_.misses += out_.missed[slot + rank];
      totals_.dropped += selection_.dropped[rank];
      if (selection_.dropped[rank] == 0) kept_[kept++] = base + expert;
      if (!next_use_.empty()) pool.set_next_use(base + expert, next_use_[slot + rank]);
    }
    totals_.changed += selection_.changed;
    const Span<const uint32_t> evicted = pool.access({kept_.data(), kept}, missed_.data());
    // Pools have the numbers of experts of their own; all of them together are the global ones.
    uint64_t* loaded_at = loaded_at_.data() + (in_.global ? 0 : size_t{layer} * experts_);
    for (const uint32_t expert : evicted) totals_.lifetime_tokens += token - loaded_at[expert];
    totals_.evictions += evicted.size();
    for (uint32_t i = 0; i < kept; ++i)
      if (missed_[i] != 0) loaded_at[kept_[i]] = token;
  }

  // When each exactly selected expert is used next, for Belady.
  void look_ahead(const std::function<void()>& between) {
    if (router_.routing().options.method->make != nullptr ||
        router_.routing().options.drop_cold > 0)
      throw Error(ErrorCode::kUsage, Setting{"eviction"},
                  "belady knows the future of exact routing only, not of " + totals_.routing,
                  "Choose the routing exact, or lru or lfu.");
    next_use_.resize(in_.tokens * in_.layers * top_k_);
    std::vector<double> next(size_t{in_.layers} * experts_,
                             std::numeric_limits<double>::infinity());
    RouterScores scores(in_.router);
    const uint64_t steps = in_.tokens * in_.layers;
    for (uint64_t at = steps; at-- > 0;) {
      if (at % kBetween == 0) between();
      const auto layer = static_cast<uint32_t>(at % in_.layers);
      const Ranking ranking = scores.rank(layer, row(at / in_.layers, layer));
      for (uint32_t rank = 0; rank < top_k_; ++rank) {
        double& when = next[size_t{layer} * experts_ + ranking.best[rank]];
        next_use_[at * top_k_ + rank] = when;
        when = static_cast<double>(at);
      }
    }
  }

  const Simulation& in_;
  const SimulatedSlots& out_;
  const uint32_t experts_;
  const uint32_t top_k_;
  Router router_;
  std::vector<ExpertPool> pools_;
  std::vector<double> next_use_;     // per slot
  std::vector<uint64_t> loaded_at_;  // token, per layer and expert
  Selection selection_;
  std::vector<uint32_t> kept_;
  std::vector<uint8_t> missed_;
  SimulatedTotals totals_;
};

}  // namespace

SimulatedTotals simulate(const Simulation& simulation, const SimulatedSlots& slots,
                         const std::function<void()>& between) {
  return Simulator(simulation, slots).run(between);
}

}  // namespace moe_mobile
