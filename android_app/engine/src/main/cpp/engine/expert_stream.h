// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "base/span.h"
#include "cache/expert_key.h"
#include "cache/read_lanes.h"
#include "cache/residency_map.h"
#include "cache/slot_table.h"
#include "engine/expert_places.h"
#include "engine/prefill_plan.h"
#include "engine/progress.h"
#include "metrics/token_metrics.h"

namespace moe_mobile {

// One expert applied to some rows of its layer's input.
struct ExpertJob {
  ExpertKey expert;
  const float* x;  // [rows, hidden]
  uint32_t rows;
  float* y;  // [rows, hidden]
};

// Makes experts ready in memory and runs them. Callers say which experts are wanted and which ones
// leave, as the selector decided.
// REQUIRES: the callers' caches never hold more experts of a variant than there are places for it.
//
// There are three reasons to read an expert. It is *demanded* if a token waits for it. It is
// *cached* if the cache holds it from the beginning: fill() named it. It is *speculative* if
// prefetch() named it. Reads of cached and speculative experts wait behind demanded ones.
// Speculative experts use places that no other expert needs, and leave, the oldest first, when
// their place is needed. So they can change how long a token takes, but never its result.
//
// One thread calls all methods.
class ExpertStream {
 public:
  struct Options {
    unsigned lanes = 2;
    uint32_t moe_layers = 1;  // layers with experts
    // Decode runs the experts in memory while the others are read. Off only to measure the gain.
    bool overlap = true;
    // By variant: at most so many places hold an expert. Those that `places` does not have yet are
    // added when they are first used. Empty: as many as there are.
    std::vector<uint32_t> limits;
    // Shows other threads which experts are in memory. May be null.
    ResidencyMap* shown = nullptr;
  };
  // `places`: by variant; null for a variant that is never used.
  ExpertStream(std::vector<std::unique_ptr<ExpertPlaces>> places, const Options& options);

  // Entries are null as in the constructor.
  ExpertPlaces* places(uint32_t variant) { return classes_[variant].places.get(); }
  // From now on at most `places` places of each variant hold an expert. If that is fewer than
  // before, all experts that are not `cached` leave, or in a prompt those that it can spare; their
  // memory goes back to the system at once. More places take memory only when they are first used.
  // Prefetching ends.
  // REQUIRES: no more experts are cached; called between two other calls.
  void resize(Span<const uint32_t> places, Span<const ExpertKey> cached);
  // Which expert is in which place of a variant, or being read into it.
  Span<const Slot> residency(uint32_t variant) const { return classes_[variant].table.slots(); }

  // Decodes one token in one layer: `evicted` leave, then the jobs' experts run, given in rank
  // order (best first) and distinct. Those in memory run first, the others as they arrive. Every
  // job writes its own y, so the order of arrival changes nothing. An expert that fill() still
  // brings in is a hit: the cache holds it, whenever it arrives.
  void decode(Span<const ExpertJob> jobs, Span<const ExpertKey> evicted, TokenMetrics* metrics);

  // Begins a prompt. `cached`: the cached experts, the least recent first. Anything else in memory
  // may serve the prompt too, but goes first. Prefetching ends.
  void begin_prompt(Span<const ExpertKey> cached);
  // The distinct experts of a batch of prompt tokens, the least recently used first. All batches of
  // a layer come before the next layer's first. Each expert is read at most once per layer if the
  // places can hold all experts that the layer uses, else at most once per batch; see PrefillPlan.
  // REQUIRES: after begin_prompt(), before retain() or load().
  void prefill(Span<const ExpertJob> jobs, bool last_of_layer, TokenMetrics* metrics);

  // Ends a prompt and frees all places except those of `cached`. Cached experts that are not in
  // memory are read when a token demands them.
  void retain(Span<const ExpertKey> cached);
  // The same, and reads the cached experts that are missing, with progress "load".
  void load(Span<const ExpertKey> cached, const Progress& progress);
  // As retain(), but the cached experts that are missing, the least recent first in `cached`, are
  // read in the background: the most recent first, while tokens are decoded. One that cannot be
  // read is no error before a token demands it. Ends with the next prompt, retain() or load().
  void fill(Span<const ExpertKey> cached);

  // Predicts that these experts will be used soon, the most likely first. Those that are not in
  // memory are read into places that no demanded expert needs, as far as there are such; the oldest
  // predictions are dropped for them. Returns how many of the first experts are in memory or being
  // read. Does nothing during a prompt, which reads ahead by itself.
  size_t prefetch(Span<const ExpertKey> keys);
  // Takes predictions back. A read that has not begun is dropped. One that has begun is finished,
  // and its bytes are wasted unless the expert is demanded or predicted again by then. Demanded
  // experts stay.
  void withdraw(Span<const ExpertKey> keys);
  // Bytes of predicted experts that were read and never used, since the beginning.
  uint64_t bytes_wasted() const { return bytes_wasted_; }

 private:
  // Why a place is taken.
  enum class Reason : uint8_t {
    kDemanded,
    kCached,  // being read by fill(); demanded once it is there
    kSpeculative,
    kWithdrawn,  // not needed any more, but its read has begun
  };
  // The places for experts of one variant.
  struct Class {
    std::unique_ptr<ExpertPlaces> places;
    SlotTable table;
    PrefillPlan plan;
  };
  struct Place {
    Reason reason = Reason::kDemanded;
    uint64_t bytes = 0;  // read before a token asked for it
    size_t job = 0;      // the job that waits for a demanded read
  };

  void decode_jobs(Span<const ExpertJob> jobs, Span<const ExpertKey> evicted,
                   TokenMetrics* metrics);
  void prefill_jobs(Span<const ExpertJob> jobs, bool last_of_layer, TokenMetrics* metrics);
  void read_missing(Span<const ExpertKey> keys, const Progress& progress);
  void run(const ExpertJob& job, uint32_t place, TokenMetrics* metrics);

  // Every place has its own number over all classes: the variants take turns, so numbers stay valid
  // when a class grows.
  uint32_t place_of(uint32_t variant, uint32_t slot) const {
    return slot * static_cast<uint32_t>(classes_.size()) + variant;
  }
  uint32_t number_of(uint32_t place) const {
    return place / static_cast<uint32_t>(classes_.size());
  }
  Class& class_of(uint32_t place) { return classes_[place % classes_.size()]; }
  ExpertPlaces& places_of(uint32_t place) { return *class_of(place).places; }
  const Slot& slot_at(uint32_t place) { return class_of(place).table.slot(number_of(place)); }
  std::optional<uint32_t> find(const ExpertKey& key) const;
  void release(const ExpertKey& key) { classes_[key.variant].table.release(key); }
  // The expert of this place has been read.
  void make_ready(uint32_t place);
  // Binds a place to the expert. Adds places if all existing ones are taken.
  uint32_t assign(const ExpertKey& key);
  // Starts a demanded read. Makes room for it if no place is free.
  void demand(const ExpertKey& key, size_t job, TokenMetrics* metrics);
  void submit(const ExpertKey& key, uint32_t place, ReadPriority priority);
  // Binds a place to the expert, which no token waits for, and begins its read.
  void read_ahead(const ExpertKey& key, Reason reason);
  // Lets reads of fill() begin, as many as keep the lanes busy until the next layer.
  void go_on_filling();
  // Takes the expert out of those that fill() has not begun to read. False if it is not there.
  bool take_from_fill(const ExpertKey& key);
  // The expert of this place is used: it is demanded from now on, even if it was speculative.
  void adopt(uint32_t place);
  // Waits for a demanded read and returns its job. Throws if the read failed.
  size_t wait_for_job(TokenMetrics* metrics);
  // Takes the result of a read.
  void take(const ReadDone& done);
  // Takes the results that have arrived, without waiting.
  void take_arrived();
  // Frees one of the first `count` speculative places, of this variant, if that is possible without
  // waiting.
  bool drop_speculative(size_t count, uint32_t variant);
  // Withdraws all speculative reads, and waits for those that have begun.
  void end_speculation();
  // The place's expert is neither demanded nor predicted any more.
  void withdraw_place(uint32_t place);
  // Frees the place. Bytes of a speculative read that were not used count as wasted.
  void free_place(uint32_t place);
  // After a failure: waits until no read is in flight, and frees places whose expert did not
  // arrive.
  void abandon_reads();
  void report(TokenMetrics* metrics);

  const Options options_;
  std::vector<Class> classes_;         // by variant
  std::vector<Place> state_;           // by place
  std::vector<ExpertKey> to_fill_;     // cached, but not being read yet, the next one last
  std::vector<uint32_t> speculative_;  // places, the oldest prediction first
  std::vector<size_t> arrived_;        // jobs that can run: their expert has arrived
  uint64_t bytes_read_ = 0;  // that no token has reported yet: reads may end between two tokens
  uint64_t bytes_wasted_ = 0;
  // For a token's jobs: the place if the expert is ready, and the jobs whose expert has no place.
  std::vector<std::optional<uint32_t>> in_memory_;
  std::vector<size_t> missing_;
  bool in_prompt_ = false;
  ReadLanes lanes_;  // last: its threads end before the memory that they write to
};

}  // namespace moe_mobile
