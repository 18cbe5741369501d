// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "routing/simulator.h"

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include "base/error.h"
#include "routing/top_k.h"

namespace moe_mobile {
namespace {

constexpr uint64_t kBetween = 1u << 16;  // token-layers

class Simulator {
 public:
  Simulator(const Simulation& simulation, const SimulatedSlots& slots,
            const std::function<void()>& between)
      : in_(simulation),
        out_(slots),
        between_(between),
        layers_(static_cast<uint32_t>(simulation.run.layers.size())),
        experts_(simulation.run.router.num_experts),
        top_k_(simulation.run.router.top_k),
        run_(simulation.run),
        knows_future_(simulation.run.eviction.kind == EvictionOptions::Kind::kBelady) {
    const ResolvedRouting& routing = run_.routing();
    if (knows_future_ && (routing.options.method->make != nullptr || routing.options.drop_cold > 0))
      throw Error(ErrorCode::kUsage, Setting{"eviction"},
                  "belady knows the future of exact routing only, not of " + routing.text,
                  "Choose the routing exact, or lru or lfu.");
  }

  SimulatedTotals run() {
    uint64_t begin = 0;
    for (const uint64_t tokens : in_.sequences) {
      if (begin > 0) run_.reset();
      const uint64_t decoded = begin + std::min(in_.prompt_tokens, tokens), end = begin + tokens;
      if (knows_future_) look_ahead(begin, decoded, end);
      for (uint64_t token = begin; token < end; ++token)
        for (uint32_t layer = 0; layer < layers_; ++layer) {
          pause();
          step(token, layer, decoded);
        }
      begin = end;
    }
    return {run_.totals(), run_.routing().text, run_.routing().note};
  }

 private:
  void pause() {
    if (steps_++ % kBetween == 0) between_();
  }

  // One token's logits in one layer.
  const float* row(uint64_t token, uint32_t layer) const {
    const float* row = in_.logits + (token * layers_ + layer) * experts_;
    const uint32_t bad = first_not_finite(row, experts_);
    if (bad < experts_)
      throw Error(ErrorCode::kUsage, Setting{"logits"},
                  "token " + std::to_string(token) + ", layer " + std::to_string(layer) +
                      ", expert " + std::to_string(bad) + " is " + std::to_string(row[bad]),
                  "Give finite logits.");
    return row;
  }

  void step(uint64_t token, uint32_t layer, uint64_t decoded) {
    const double* next_use = nullptr;
    if (knows_future_ && token >= foreseen_)
      next_use = next_use_.data() + ((token - foreseen_) * layers_ + layer) * top_k_;
    const RunStep result = run_.step(layer, row(token, layer), token < decoded, next_use);
    const uint64_t slot = (token * layers_ + layer) * top_k_;
    write_slots(result, top_k_, {out_.selected + slot, out_.uncached + slot, out_.dropped + slot});
  }

  // When each exactly selected expert of a sequence is used next, for Belady. Uses by a prompt do
  // not count: loading an expert for a prompt is free, so keeping it for that gains nothing.
  void look_ahead(uint64_t begin, uint64_t decoded, uint64_t end) {
    foreseen_ = in_.run.initial == InitialCache::kPrompt ? begin : decoded;
    const uint64_t steps = (end - foreseen_) * layers_;
    const uint64_t prompt = (decoded - foreseen_) * layers_;
    next_use_.resize(steps * top_k_);
    const double never = std::numeric_limits<double>::infinity();
    std::vector<double> next(size_t{layers_} * experts_, never);
    RouterScores scores(in_.run.router);
    for (uint64_t at = steps; at-- > 0;) {
      pause();
      const auto layer = static_cast<uint32_t>(at % layers_);
      const Ranking ranking = scores.rank(layer, row(foreseen_ + at / layers_, layer));
      for (uint32_t rank = 0; rank < ranking.top_k; ++rank) {
        double& when = next[size_t{layer} * experts_ + ranking.best[rank]];
        next_use_[at * top_k_ + rank] = when;
        when = at < prompt ? never : static_cast<double>(at);
      }
    }
    for (uint32_t layer = 0; layer < layers_; ++layer)
      for (uint32_t expert = 0; expert < experts_; ++expert)
        run_.set_next_use(layer, expert, next[size_t{layer} * experts_ + expert]);
  }

  const Simulation& in_;
  const SimulatedSlots& out_;
  const std::function<void()>& between_;
  const uint32_t layers_;
  const uint32_t experts_;
  const uint32_t top_k_;
  RoutingRun run_;
  const bool knows_future_;
  uint64_t steps_ = 0;
  uint64_t foreseen_ = 0;         // the first token whose experts' next uses are known
  std::vector<double> next_use_;  // per slot, from foreseen_ to the end of the sequence
};

}  // namespace

SimulatedTotals simulate(const Simulation& simulation, const SimulatedSlots& slots,
                         const std::function<void()>& between) {
  return Simulator(simulation, slots, between).run();
}

}  // namespace moe_mobile
