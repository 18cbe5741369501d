// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#include "engine/expert_stream.h"

#include <algorithm>
#include <unordered_set>
#include <utility>

#include "base/error.h"
#include "metrics/stopwatch.h"

namespace moe_mobile {
namespace {

// Reads in the background for each lane. Demanded reads pass those that have not begun.
constexpr size_t kFillAhead = 8;

}  // namespace

ExpertStream::ExpertStream(std::vector<std::unique_ptr<ExpertPlaces>> places,
                           const Options& options)
    : options_(options), lanes_(options.lanes) {
  for (size_t variant = 0; variant < places.size(); ++variant) {
    std::unique_ptr<ExpertPlaces>& of_variant = places[variant];
    const uint32_t count = of_variant == nullptr ? 0 : of_variant->count();
    const uint32_t limit = options.limits.empty() ? count : options.limits[variant];
    classes_.push_back({std::move(of_variant), SlotTable(count, options.shown),
                        PrefillPlan(std::max(1u, limit), options.moe_layers)});
    classes_.back().table.resize(limit);
    state_.resize(std::max(state_.size(), size_t{count} * places.size()));
  }
}

std::optional<uint32_t> ExpertStream::find(const ExpertKey& key) const {
  const std::optional<uint32_t> slot = classes_[key.variant].table.find(key);
  if (!slot) return std::nullopt;
  return place_of(key.variant, *slot);
}

void ExpertStream::make_ready(uint32_t place) {
  places_of(place).arrived(slot_at(place).key, number_of(place));
  class_of(place).table.set_ready(number_of(place));
}

void ExpertStream::run(const ExpertJob& job, uint32_t place, TokenMetrics* metrics) {
  Stopwatch watch;
  places_of(place).run(number_of(place), job.x, job.rows, job.y);
  metrics->expert_ns += watch.lap();
}

void ExpertStream::report(TokenMetrics* metrics) {
  metrics->bytes_read += std::exchange(bytes_read_, 0);
}

// Reading ---------------------------------------------------------------------------------------

void ExpertStream::submit(const ExpertKey& key, uint32_t place, ReadPriority priority) {
  ReadRequest request = places_of(place).read_request(key, number_of(place));
  request.tag = place;
  lanes_.submit(request, priority);
}

uint32_t ExpertStream::assign(const ExpertKey& key) {
  Class& of = classes_[key.variant];
  const uint32_t slot = of.table.assign(key);
  const uint32_t place = place_of(key.variant, slot);
  if (place >= state_.size()) state_.resize(place + 1);
  if (slot < of.places->count()) return place;
  try {
    of.places->add(of.table.free_slots() + 1);
  } catch (...) {
    release(key);
    throw;
  }
  return place;
}

void ExpertStream::resize(Span<const uint32_t> places, Span<const ExpertKey> cached) {
  end_speculation();
  const std::unordered_set<ExpertKey> stay(cached.begin(), cached.end());
  to_fill_.erase(std::remove_if(to_fill_.begin(), to_fill_.end(),
                                [&](const ExpertKey& key) { return stay.count(key) == 0; }),
                 to_fill_.end());
  for (size_t variant = 0; variant < classes_.size(); ++variant) {
    Class& of = classes_[variant];
    if (of.places == nullptr) continue;
    if (in_prompt_) {
      for (const ExpertKey& key : of.plan.resize(places[variant])) release(key);
    } else {
      if (places[variant] < of.table.used() + of.table.free_slots()) of.table.keep_only(cached);
      of.plan.resize(places[variant]);
    }
    // A place that could not be added has a slot in the table only.
    for (const uint32_t slot : of.table.resize(places[variant]))
      if (slot < of.places->count()) of.places->give_back(slot);
  }
}

void ExpertStream::demand(const ExpertKey& key, size_t job, TokenMetrics* metrics) {
  const SlotTable& table = classes_[key.variant].table;
  if (table.free_slots() == 0) {
    Stopwatch watch;
    while (table.free_slots() == 0 && !drop_speculative(speculative_.size(), key.variant) &&
           lanes_.in_flight() > 0)
      take(lanes_.wait());  // predictions occupy the other places, and all of them are being read
    metrics->wait_ns += watch.lap();
  }
  const uint32_t place = assign(key);
  state_[place] = {Reason::kDemanded, 0, job};
  submit(key, place, ReadPriority::kDemanded);
}

void ExpertStream::read_ahead(const ExpertKey& key, Reason reason) {
  const uint32_t place = assign(key);
  state_[place] = {};
  try {
    submit(key, place, ReadPriority::kSpeculative);
  } catch (...) {
    release(key);
    throw;
  }
  state_[place].reason = reason;
}

void ExpertStream::adopt(uint32_t place) {
  if (state_[place].reason == Reason::kSpeculative)
    speculative_.erase(std::find(speculative_.begin(), speculative_.end(), place));
  state_[place].reason = Reason::kDemanded;
}

void ExpertStream::take(const ReadDone& done) {
  const auto place = static_cast<uint32_t>(done.tag);
  Place& at = state_[place];
  bytes_read_ += done.bytes;
  if (at.reason == Reason::kDemanded) {
    if (done.error) std::rethrow_exception(done.error);
    make_ready(place);
    arrived_.push_back(at.job);
    return;
  }
  at.bytes = done.bytes;
  if (at.reason == Reason::kWithdrawn || done.error) return free_place(place);
  try {
    make_ready(place);
    if (at.reason == Reason::kCached) at = {};
  } catch (const Error&) {
    free_place(place);  // the error is reported when the expert is demanded
  }
}

void ExpertStream::take_arrived() {
  if (lanes_.in_flight() == 0) return;
  while (const std::optional<ReadDone> done = lanes_.poll()) take(*done);
}

size_t ExpertStream::wait_for_job(TokenMetrics* metrics) {
  Stopwatch watch;
  while (arrived_.empty()) {
    const ReadDone done = lanes_.wait();
    metrics->wait_ns += watch.lap();
    take(done);
    watch.lap();
  }
  const size_t job = arrived_.front();
  arrived_.erase(arrived_.begin());
  return job;
}

void ExpertStream::free_place(uint32_t place) {
  Place& at = state_[place];
  if (at.reason != Reason::kDemanded) bytes_wasted_ += at.bytes;
  adopt(place);
  at.bytes = 0;
  release(ExpertKey(slot_at(place).key));
}

void ExpertStream::abandon_reads() {
  std::vector<uint32_t> reading;
  for (uint32_t variant = 0; variant < classes_.size(); ++variant) {
    const Span<const Slot> slots = classes_[variant].table.slots();
    for (uint32_t slot = 0; slot < slots.size(); ++slot)
      if (slots[slot].state == SlotState::kReading) reading.push_back(place_of(variant, slot));
  }
  for (const uint32_t place : reading) lanes_.withdraw(place);
  while (lanes_.in_flight() > 0) {
    const ReadDone done = lanes_.wait();
    bytes_read_ += done.bytes;
    state_[done.tag].bytes = done.bytes;
  }
  for (const uint32_t place : reading) free_place(place);
  arrived_.clear();
}

// Decoding --------------------------------------------------------------------------------------

void ExpertStream::decode(Span<const ExpertJob> jobs, Span<const ExpertKey> evicted,
                          TokenMetrics* metrics) {
  try {
    decode_jobs(jobs, evicted, metrics);
  } catch (...) {
    abandon_reads();
    throw;
  }
}

void ExpertStream::decode_jobs(Span<const ExpertJob> jobs, Span<const ExpertKey> evicted,
                               TokenMetrics* metrics) {
  take_arrived();
  for (const ExpertKey& key : evicted) {
    const std::optional<uint32_t> place = find(key);
    if (!place)
      take_from_fill(key);
    else if (state_[*place].reason == Reason::kDemanded || state_[*place].reason == Reason::kCached)
      withdraw_place(*place);
  }

  // Adopt all experts that are in memory or being read before making room for other reads.
  in_memory_.assign(jobs.size(), std::nullopt);
  missing_.clear();
  size_t reading = 0, hits = 0;
  for (size_t rank = 0; rank < jobs.size(); ++rank) {
    const std::optional<uint32_t> place = find(jobs[rank].expert);
    if (!place) {
      missing_.push_back(rank);
      hits += take_from_fill(jobs[rank].expert);
      continue;
    }
    const bool ready = slot_at(*place).state == SlotState::kReady;
    hits += ready || state_[*place].reason == Reason::kCached;
    adopt(*place);
    if (ready) {
      in_memory_[rank] = place;
    } else {
      lanes_.promote(*place);
      state_[*place].job = rank;
      ++reading;
    }
  }
  for (const size_t rank : missing_) demand(jobs[rank].expert, rank, metrics);
  reading += missing_.size();
  metrics->hits += hits;
  metrics->misses += jobs.size() - hits;
  if (options_.shown != nullptr && !jobs.empty())
    options_.shown->count(jobs[0].expert.layer, hits, jobs.size() - hits);
  go_on_filling();

  if (!options_.overlap)
    for (; reading > 0; --reading) {
      const size_t rank = wait_for_job(metrics);
      in_memory_[rank] = find(jobs[rank].expert);
    }
  for (size_t rank = 0; rank < jobs.size(); ++rank)
    if (in_memory_[rank]) run(jobs[rank], *in_memory_[rank], metrics);
  for (; reading > 0; --reading) {
    const size_t rank = wait_for_job(metrics);
    run(jobs[rank], *find(jobs[rank].expert), metrics);
  }
  report(metrics);
}

// Prompts ---------------------------------------------------------------------------------------

void ExpertStream::begin_prompt(Span<const ExpertKey> cached) {
  to_fill_.clear();
  end_speculation();
  in_prompt_ = true;
  const std::unordered_set<ExpertKey> known(cached.begin(), cached.end());
  for (uint32_t variant = 0; variant < classes_.size(); ++variant) {
    Class& of = classes_[variant];
    std::vector<ExpertKey> in_memory;
    for (const Slot& slot : of.table.slots())
      if (slot.state == SlotState::kReady && known.count(slot.key) == 0)
        in_memory.push_back(slot.key);
    for (const ExpertKey& key : cached)
      if (key.variant == variant && find(key)) in_memory.push_back(key);
    of.plan.begin(in_memory);
  }
}

void ExpertStream::prefill(Span<const ExpertJob> jobs, bool last_of_layer, TokenMetrics* metrics) {
  try {
    prefill_jobs(jobs, last_of_layer, metrics);
  } catch (...) {
    abandon_reads();
    throw;
  }
}

void ExpertStream::prefill_jobs(Span<const ExpertJob> jobs, bool last_of_layer,
                                TokenMetrics* metrics) {
  std::vector<ExpertKey> experts;
  std::vector<std::vector<ExpertKey>> by_variant(classes_.size());
  std::vector<size_t> number;  // number of a job among the jobs of its variant
  for (const ExpertJob& job : jobs) {
    std::vector<ExpertKey>& same = by_variant[job.expert.variant];
    number.push_back(same.size());
    experts.push_back(job.expert);
    same.push_back(job.expert);
  }
  std::vector<size_t> passing;  // by variant: the first so many jobs' experts leave once they ran
  for (uint32_t variant = 0; variant < classes_.size(); ++variant) {
    const PrefillPlan::Batch plan = classes_[variant].plan.next(by_variant[variant], last_of_layer);
    for (const ExpertKey& key : plan.given_up) release(key);
    passing.push_back(plan.passing);
  }
  std::vector<size_t> hits;
  std::vector<size_t> misses;
  for (size_t job = 0; job < jobs.size(); ++job)
    (find(experts[job]) ? hits : misses).push_back(job);
  metrics->hits += hits.size();
  metrics->misses += misses.size();
  if (options_.shown != nullptr && !jobs.empty())
    options_.shown->count(jobs[0].expert.layer, hits.size(), misses.size());

  const size_t reads_ahead = 2 * lanes_.lanes();
  size_t next_miss = 0;
  size_t reading = 0;
  const auto read_more = [&] {
    for (; next_miss < misses.size() && reading < reads_ahead &&
           classes_[experts[misses[next_miss]].variant].table.free_slots() > 0;
         ++reading, ++next_miss)
      demand(experts[misses[next_miss]], misses[next_miss], metrics);
  };
  const auto finish = [&](size_t job) {
    run(jobs[job], *find(experts[job]), metrics);
    if (number[job] < passing[experts[job].variant]) release(experts[job]);
    read_more();
  };
  read_more();
  for (size_t job : hits) finish(job);
  while (reading > 0) {
    const size_t job = wait_for_job(metrics);
    --reading;
    finish(job);
  }
  if (next_miss < misses.size())
    throw Error(ErrorCode::kRuntime, "", "no place is free for an expert of the prompt");
  report(metrics);
}

void ExpertStream::retain(Span<const ExpertKey> cached) {
  to_fill_.clear();
  end_speculation();
  in_prompt_ = false;
  for (Class& of : classes_) of.table.keep_only(cached);
}

void ExpertStream::load(Span<const ExpertKey> cached, const Progress& progress) {
  retain(cached);
  std::vector<ExpertKey> missing;
  for (const ExpertKey& key : cached)
    if (!find(key)) missing.push_back(key);
  try {
    read_missing(missing, progress);
  } catch (...) {
    abandon_reads();
    throw;
  }
}

void ExpertStream::fill(Span<const ExpertKey> cached) {
  retain(cached);
  for (const ExpertKey& key : cached)
    if (!find(key)) to_fill_.push_back(key);
  go_on_filling();
}

void ExpertStream::go_on_filling() {
  while (!to_fill_.empty() && lanes_.in_flight() < kFillAhead * lanes_.lanes()) {
    const ExpertKey key = to_fill_.back();
    if (classes_[key.variant].table.free_slots() == 0 &&
        !drop_speculative(speculative_.size(), key.variant))
      return;  // an expert that has to leave is still being read
    to_fill_.pop_back();
    try {
      read_ahead(key, Reason::kCached);
    } catch (const Error&) {
      to_fill_.clear();  // the error is reported when an expert is demanded
    }
  }
}

bool ExpertStream::take_from_fill(const ExpertKey& key) {
  const auto found = std::find(to_fill_.begin(), to_fill_.end(), key);
  if (found == to_fill_.end()) return false;
  to_fill_.erase(found);
  return true;
}

void ExpertStream::read_missing(Span<const ExpertKey> keys, const Progress& progress) {
  TokenMetrics unused;
  const size_t reads_ahead = 2 * lanes_.lanes();
  size_t reading = 0, done = 0;
  const auto wait_one = [&] {
    wait_for_job(&unused);
    --reading;
    progress("load", ++done, keys.size());
  };
  for (size_t i = 0; i < keys.size(); ++i) {
    demand(keys[i], i, &unused);
    if (++reading == reads_ahead) wait_one();
  }
  while (reading > 0) wait_one();
  report(&unused);
}

// Speculation -----------------------------------------------------------------------------------

size_t ExpertStream::prefetch(Span<const ExpertKey> keys) {
  if (in_prompt_) return 0;
  take_arrived();
  size_t older = speculative_.size();  // earlier predictions, which may be dropped
  for (size_t accepted = 0; accepted < keys.size(); ++accepted) {
    const ExpertKey& key = keys[accepted];
    std::optional<uint32_t> place = find(key);
    // A cached expert comes anyway.
    if (std::find(to_fill_.begin(), to_fill_.end(), key) != to_fill_.end()) continue;
    if (place &&
        (state_[*place].reason == Reason::kDemanded || state_[*place].reason == Reason::kCached))
      continue;
    if (place) {
      const auto at = std::find(speculative_.begin(), speculative_.end(), *place);
      if (at - speculative_.begin() < static_cast<ptrdiff_t>(older)) --older;
      adopt(*place);
    } else {
      if (classes_[key.variant].table.free_slots() == 0) {
        if (!drop_speculative(older, key.variant)) return accepted;
        --older;
      }
      read_ahead(key, Reason::kSpeculative);
      place = find(key);
    }
    state_[*place].reason = Reason::kSpeculative;
    speculative_.push_back(*place);
  }
  return keys.size();
}

void ExpertStream::withdraw(Span<const ExpertKey> keys) {
  take_arrived();
  for (const ExpertKey& key : keys) {
    const std::optional<uint32_t> place = find(key);
    if (place && state_[*place].reason == Reason::kSpeculative) withdraw_place(*place);
  }
}

void ExpertStream::withdraw_place(uint32_t place) {
  if (slot_at(place).state == SlotState::kReady || lanes_.withdraw(place)) return free_place(place);
  adopt(place);
  state_[place].reason = Reason::kWithdrawn;
}

bool ExpertStream::drop_speculative(size_t count, uint32_t variant) {
  for (size_t i = 0; i < count; ++i) {
    const uint32_t place = speculative_[i];
    if (slot_at(place).key.variant != variant) continue;
    if (slot_at(place).state == SlotState::kReading && !lanes_.withdraw(place)) continue;
    free_place(place);
    return true;
  }
  return false;
}

void ExpertStream::end_speculation() {
  while (!speculative_.empty()) withdraw_place(speculative_.back());
  while (lanes_.in_flight() > 0) take(lanes_.wait());
}

}  // namespace moe_mobile
