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

// Makes experts ready in memory and runs them. It is told which experts are wanted and which ones
// leave; why is the selector's matter. REQUIRES: the caches that these come from never hold more
// experts of a variant than there are places for it.
//
// Two reasons bring an expert in. It is *demanded*: a token waits for it, or the cache holds it.
// Or it is *speculative*: prefetch() named it. Speculative experts live in places that nothing
// demanded needs, wait behind demanded reads, and leave, the oldest first, when their place is
// needed. So they can change how long a token takes, never its result.
//
// One thread calls all methods.
class ExpertStream {
 public:
  struct Options {
    unsigned lanes = 2;
    uint32_t moe_layers = 1;  // layers that have experts
    // Decode runs what is in memory while the rest is read. Off only to measure what that gains.
    bool overlap = true;
    // Where other threads see what is in memory. Null: nowhere.
    ResidencyMap* shown = nullptr;
  };
  // `places`: by variant; null for one of which no expert is ever used.
  ExpertStream(std::vector<std::unique_ptr<ExpertPlaces>> places, const Options& options);

  // Null as in the constructor.
  ExpertPlaces* places(uint32_t variant) { return classes_[variant].places.get(); }
  // At most so many places of each variant hold an expert from now on. If that is fewer, all leaves
  // that is not `cached`, or in a prompt what it can spare; the memory goes back to the system at
  // once. More places take memory only when they are first used. Prefetching ends.
  // REQUIRES: no more are cached; between two calls.
  void resize(Span<const uint32_t> places, Span<const ExpertKey> cached);
  // Which expert is in which place of a variant, or on its way there.
  Span<const Slot> residency(uint32_t variant) const { return classes_[variant].table.slots(); }

  // Decodes one token in one layer: `evicted` leave, then the jobs' experts run, given in rank
  // order (best first) and distinct. Those in memory run first, the others as they arrive. Every
  // job writes its own y, so the order of arrival changes nothing.
  void decode(Span<const ExpertJob> jobs, Span<const ExpertKey> evicted, TokenMetrics* metrics);

  // A prompt begins. `cached` is what the cache holds, the least recent first. Anything else in
  // memory may serve the prompt too, but goes first. Prefetching ends.
  void begin_prompt(Span<const ExpertKey> cached);
  // The distinct experts of a batch of prompt tokens, the least recently used first. All batches of
  // a layer come before the next layer's first. Each expert is brought in at most once per layer if
  // the places hold all that the layer uses, else at most once per batch; see PrefillPlan.
  // REQUIRES: after begin_prompt(), before retain() or load().
  void prefill(Span<const ExpertJob> jobs, bool last_of_layer, TokenMetrics* metrics);

  // Frees all places but those of `cached`, and ends a prompt. What is cached but not in memory is
  // read when it is first used.
  void retain(Span<const ExpertKey> cached);
  // The same, and reads what is missing, with progress "load".
  void load(Span<const ExpertKey> cached, const Progress& progress);

  // Predicts that these experts will be used soon, the most likely first. Those that are not in
  // memory are read as far as there are places that nothing demanded needs; the oldest predictions
  // give way. Returns how many, from the first, are in memory or on their way. Does nothing during
  // a prompt, which reads ahead by itself.
  size_t prefetch(Span<const ExpertKey> keys);
  // Takes predictions back. A read that has not begun is dropped. One that has begun ends, and its
  // bytes are wasted, unless the expert is demanded or predicted anew by then. Experts that are
  // demanded stay.
  void withdraw(Span<const ExpertKey> keys);

 private:
  // Why a place is taken.
  enum class Reason : uint8_t {
    kDemanded,
    kSpeculative,
    kWithdrawn,  // no reason any more, but the read is under way
  };
  // The places for experts of one variant.
  struct Class {
    std::unique_ptr<ExpertPlaces> places;
    SlotTable table;
    PrefillPlan plan;
  };
  struct Place {
    Reason reason = Reason::kDemanded;
    uint64_t bytes = 0;  // that a speculative read brought
    size_t job = 0;      // that waits for a demanded read
  };

  void decode_jobs(Span<const ExpertJob> jobs, Span<const ExpertKey> evicted,
                   TokenMetrics* metrics);
  void prefill_jobs(Span<const ExpertJob> jobs, bool last_of_layer, TokenMetrics* metrics);
  void read_missing(Span<const ExpertKey> keys, const Progress& progress);
  void run(const ExpertJob& job, uint32_t place, TokenMetrics* metrics);

  // Places of all classes have numbers of their own, which stay as classes grow: the variants take
  // turns.
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
  // Binds a place to the expert. Adds places if all that there are are taken.
  uint32_t assign(const ExpertKey& key);
  // Starts a demanded read. Makes room for it if no place is free.
  void demand(const ExpertKey& key, size_t job, TokenMetrics* metrics);
  void submit(const ExpertKey& key, uint32_t place, ReadPriority priority);
  // The expert of this place is used: whatever brought it here, it is demanded from now on.
  void adopt(uint32_t place);
  // Waits for a demanded read and returns its job. On failure throws.
  size_t wait_for_job(TokenMetrics* metrics);
  // Takes the result of a read.
  void take(const ReadDone& done);
  // Takes the results that are there, without waiting.
  void take_arrived();
  // Frees one of the first `count` speculative places that is of this variant, if that needs no
  // waiting.
  bool drop_speculative(size_t count, uint32_t variant);
  // Withdraws all that is speculative, and waits for what has begun.
  void end_speculation();
  // The place's expert is neither demanded nor predicted any more.
  void withdraw_place(uint32_t place);
  // Frees the place. What a speculative read brought there and nothing used is wasted.
  void free_place(uint32_t place);
  // After a failure: no read stays under way, and no place claims an expert that did not come.
  void abandon_reads();
  void report(TokenMetrics* metrics);

  const Options options_;
  std::vector<Class> classes_;         // by variant
  std::vector<Place> state_;           // by place
  std::vector<uint32_t> speculative_;  // places, the oldest prediction first
  std::vector<size_t> arrived_;        // jobs whose expert arrived and that did not run yet
  // Bytes that no token has reported yet: reads may end, and go to waste, between two tokens.
  uint64_t bytes_read_ = 0;
  uint64_t bytes_wasted_ = 0;
  // Of a token's jobs: the place if its expert is ready, and those whose expert is nowhere.
  std::vector<std::optional<uint32_t>> in_memory_;
  std::vector<size_t> missing_;
  bool in_prompt_ = false;
  ReadLanes lanes_;  // last: its threads end before anything they write to
};

}  // namespace moe_mobile
