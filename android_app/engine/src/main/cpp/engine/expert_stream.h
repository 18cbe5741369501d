// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/span.h"
#include "cache/logical_cache.h"
#include "cache/read_lanes.h"
#include "cache/slot_table.h"
#include "engine/expert_places.h"
#include "engine/progress.h"
#include "metrics/token_metrics.h"

namespace moe_mobile {

// One expert applied to some rows of a layer's input.
struct ExpertJob {
  uint32_t expert;
  const float* x;  // [rows, hidden]
  uint32_t rows;
  float* y;  // [rows, hidden]
};

// Runs a layer's experts, bringing in those that are not in memory.
//
// Two states are kept apart: the logical cache says what is cached, and selection and eviction see
// nothing else; the table says whose bytes lie in which place. They agree between decode steps,
// except that an expert which a prompt left in the logical cache may be read only when it is used
// first.
class ExpertStream {
 public:
  struct Options {
    unsigned lanes = 2;
    uint32_t moe_layers = 1;  // layers of the cache that have experts
    // What its pools hold must fit in the places.
    LogicalCacheOptions cache;
    // Decode runs what is in memory while the rest is read. Off only to measure what that gains.
    bool overlap = true;
  };
  ExpertStream(std::unique_ptr<ExpertPlaces> places, const Options& options);

  const LogicalCache& cache() const { return cache_; }
  ExpertPlaces& places() { return *places_; }

  // One token's experts in rank order (best first), distinct, without the dropped. Runs hits first,
  // then misses as they arrive; every job writes its own y, so the order of arrival changes
  // nothing.
  void decode(uint32_t layer, Span<const ExpertJob> jobs, TokenMetrics* metrics);

  // The distinct experts of a batch of prompt tokens, in the order of their last use (least recent
  // first). All batches of a layer come before the next layer's first. An expert is brought in at
  // most once per layer where the places hold those that the layer uses, else at most once per
  // batch. Leaves the logical cache alone.
  void prefill(uint32_t layer, Span<const ExpertJob> jobs, bool last_batch, TokenMetrics* metrics);

  // After all layers of a prompt: `selected` holds [tokens, moe layers, top_k] experts in rank
  // order, `layers` the number of each MoE layer. The cache then is as if the prompt had been
  // routed token by token.
  void finish_prefill(Span<const uint32_t> selected, Span<const uint32_t> layers, uint32_t top_k);

  // Empties the cache, logically too: for whoever used places() directly.
  void forget_all();

  // Sets the cache as LogicalCache::fill() does, and brings in what is not in memory.
  void fill(Span<const std::vector<uint32_t>> best, const Progress& progress);

 private:
  void submit(const ExpertKey& key, uint32_t place, uint64_t tag, TokenMetrics* metrics);
  // Waits for one read; adds the time to metrics->wait_ns. On failure drains the lanes, frees their
  // places and throws.
  uint64_t wait(TokenMetrics* metrics);
  void decode_jobs(uint32_t layer, Span<const ExpertJob> jobs, TokenMetrics* metrics);
  void prefill_jobs(uint32_t layer, Span<const ExpertJob> jobs, bool last_batch,
                    TokenMetrics* metrics);
  void bring_in(Span<const ExpertKey> keys, const Progress& progress);
  // After a failure: no read stays under way, and no place claims an expert that did not come.
  void abandon_reads();
  void run(uint32_t layer, const ExpertJob& job, TokenMetrics* metrics);
  // Frees places for a batch of a prompt and decides what stays after it: all before the first
  // read, so that neither the number of lanes nor the order of arrival shows in the cache. Returns
  // how many of the jobs, from the first, leave once they have run.
  size_t plan_prefill(uint32_t layer, Span<const ExpertJob> jobs, bool last_batch);

  std::unique_ptr<ExpertPlaces> places_;
  Options options_;
  LogicalCache cache_;
  SlotTable table_;
  ReadLanes lanes_;
  // By tag.
  struct InFlight {
    ExpertKey key;
    uint32_t place = 0;
    bool active = false;
  };
  std::vector<InFlight> in_flight_;
  std::vector<uint32_t> chosen_;
  std::vector<uint8_t> flags_;  // per chosen expert

  // During a prompt: what is in memory and not wanted by the batch that runs now. Given up in this
  // order.
  bool in_prefill_ = false;
  std::vector<ExpertKey> passed_;   // used, and not among a layer's most recent
  std::vector<ExpertKey> stale_;    // cached before the prompt, not used by it yet
  std::vector<ExpertKey> kept_;     // a layer's most recent
  std::vector<ExpertKey> current_;  // used by earlier batches of this layer, likely by later ones
};

}  // namespace moe_mobile
