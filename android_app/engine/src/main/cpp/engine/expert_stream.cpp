// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#include "engine/expert_stream.h"

#include <algorithm>
#include <unordered_set>
#include <utility>

#include "base/error.h"
#include "metrics/stopwatch.h"

namespace moe_mobile {

ExpertStream::ExpertStream(std::unique_ptr<ExpertPlaces> places, const Options& options)
    : places_(std::move(places)),
      options_(options),
      table_(places_->count(), options.shown),
      state_(places_->count()),
      plan_(places_->count(), options.moe_layers),
      lanes_(options.lanes) {}

void ExpertStream::run(const ExpertJob& job, uint32_t place, TokenMetrics* metrics) {
  Stopwatch watch;
  places_->run(place, job.x, job.rows, job.y);
  metrics->expert_ns += watch.lap();
}

void ExpertStream::report(TokenMetrics* metrics) {
  metrics->bytes_read += std::exchange(bytes_read_, 0);
  metrics->bytes_wasted += std::exchange(bytes_wasted_, 0);
}

// Reading ---------------------------------------------------------------------------------------

void ExpertStream::submit(const ExpertKey& key, uint32_t place, ReadPriority priority) {
  ReadRequest request = places_->read_request(key, place);
  request.tag = place;
  lanes_.submit(request, priority);
}

uint32_t ExpertStream::assign(const ExpertKey& key) {
  const uint32_t place = table_.assign(key);
  if (place >= state_.size()) state_.resize(place + 1);
  if (place < places_->count()) return place;
  try {
    places_->add(table_.free_slots() + 1);
  } catch (...) {
    table_.release(key);
    throw;
  }
  return place;
}

void ExpertStream::resize(uint32_t places, Span<const ExpertKey> cached) {
  end_speculation();
  if (in_prompt_) {
    for (const ExpertKey& key : plan_.resize(places)) table_.release(key);
  } else {
    if (places < table_.used() + table_.free_slots()) table_.reconcile(cached);
    plan_.resize(places);
  }
  for (const uint32_t place : table_.resize(places)) places_->give_back(place);
}

void ExpertStream::demand(const ExpertKey& key, size_t job, TokenMetrics* metrics) {
  if (table_.free_slots() == 0) {
    Stopwatch watch;
    while (table_.free_slots() == 0 && !drop_speculative(speculative_.size()) &&
           lanes_.in_flight() > 0)
      take(lanes_.wait());  // predictions hold the rest, and all of them are being read
    metrics->wait_ns += watch.lap();
  }
  const uint32_t place = assign(key);
  state_[place] = {Reason::kDemanded, 0, job};
  submit(key, place, ReadPriority::kDemanded);
  ++metrics->misses;
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
    places_->arrived(table_.slot(place).key, place);
    table_.set_ready(place);
    arrived_.push_back(at.job);
    return;
  }
  at.bytes = done.bytes;
  if (at.reason == Reason::kWithdrawn || done.error) return free_place(place);
  try {
    places_->arrived(table_.slot(place).key, place);
    table_.set_ready(place);
  } catch (const Error&) {
    free_place(place);  // whoever demands it gets the error
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
  table_.release(ExpertKey(table_.slot(place).key));
}

void ExpertStream::abandon_reads() {
  for (uint32_t place = 0; place < state_.size(); ++place)
    if (table_.slot(place).state == SlotState::kReading) lanes_.withdraw(place);
  while (lanes_.in_flight() > 0) {
    const ReadDone done = lanes_.wait();
    bytes_read_ += done.bytes;
    state_[done.tag].bytes = done.bytes;
  }
  for (uint32_t place = 0; place < state_.size(); ++place)
    if (table_.slot(place).state == SlotState::kReading) free_place(place);
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
    const std::optional<uint32_t> place = table_.find(key);
    if (place && state_[*place].reason == Reason::kDemanded) free_place(*place);
  }

  // All that is here or on its way is adopted before anything makes room for a read.
  in_memory_.assign(jobs.size(), std::nullopt);
  missing_.clear();
  size_t reading = 0;
  for (size_t rank = 0; rank < jobs.size(); ++rank) {
    const std::optional<uint32_t> place = table_.find(jobs[rank].expert);
    if (!place) {
      missing_.push_back(rank);
      continue;
    }
    adopt(*place);
    if (table_.slot(*place).state == SlotState::kReady) {
      in_memory_[rank] = place;
      ++metrics->hits;
    } else {
      lanes_.promote(*place);
      state_[*place].job = rank;
      ++metrics->misses;
      ++reading;
    }
  }
  for (const size_t rank : missing_) demand(jobs[rank].expert, rank, metrics);
  reading += missing_.size();
  if (options_.shown != nullptr && !jobs.empty())
    options_.shown->count(jobs[0].expert.layer, jobs.size() - reading, reading);

  if (!options_.overlap)
    for (; reading > 0; --reading) {
      const size_t rank = wait_for_job(metrics);
      in_memory_[rank] = table_.find(jobs[rank].expert);
    }
  for (size_t rank = 0; rank < jobs.size(); ++rank)
    if (in_memory_[rank]) run(jobs[rank], *in_memory_[rank], metrics);
  for (; reading > 0; --reading) {
    const size_t rank = wait_for_job(metrics);
    run(jobs[rank], *table_.find(jobs[rank].expert), metrics);
  }
  report(metrics);
}

// Prompts ---------------------------------------------------------------------------------------

void ExpertStream::begin_prompt(Span<const ExpertKey> cached) {
  end_speculation();
  in_prompt_ = true;
  const std::unordered_set<ExpertKey> known(cached.begin(), cached.end());
  std::vector<ExpertKey> in_memory;
  for (const Slot& slot : table_.slots())
    if (slot.state == SlotState::kReady && known.count(slot.key) == 0)
      in_memory.push_back(slot.key);
  for (const ExpertKey& key : cached)
    if (table_.find(key)) in_memory.push_back(key);
  plan_.begin(in_memory);
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
  for (const ExpertJob& job : jobs) experts.push_back(job.expert);
  const PrefillPlan::Batch plan = plan_.next(experts, last_of_layer);
  for (const ExpertKey& key : plan.given_up) table_.release(key);
  std::vector<size_t> hits;
  std::vector<size_t> misses;
  for (size_t job = 0; job < jobs.size(); ++job)
    (table_.find(experts[job]) ? hits : misses).push_back(job);
  metrics->hits += static_cast<uint32_t>(hits.size());
  if (options_.shown != nullptr && !jobs.empty())
    options_.shown->count(jobs[0].expert.layer, hits.size(), misses.size());

  const size_t reads_ahead = 2 * lanes_.lanes();
  size_t next_miss = 0;
  size_t reading = 0;
  const auto read_more = [&] {
    for (; next_miss < misses.size() && reading < reads_ahead && table_.free_slots() > 0;
         ++reading, ++next_miss)
      demand(experts[misses[next_miss]], misses[next_miss], metrics);
  };
  const auto finish = [&](size_t job) {
    run(jobs[job], *table_.find(experts[job]), metrics);
    if (job < plan.passing) table_.release(experts[job]);
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
  end_speculation();
  in_prompt_ = false;
  table_.reconcile(cached);
}

void ExpertStream::load(Span<const ExpertKey> cached, const Progress& progress) {
  end_speculation();
  in_prompt_ = false;
  const std::vector<ExpertKey> missing = table_.reconcile(cached);
  try {
    read_missing(missing, progress);
  } catch (...) {
    abandon_reads();
    throw;
  }
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
  size_t older = speculative_.size();  // predictions of before, which may give way
  for (size_t accepted = 0; accepted < keys.size(); ++accepted) {
    const ExpertKey& key = keys[accepted];
    std::optional<uint32_t> place = table_.find(key);
    if (place && state_[*place].reason == Reason::kDemanded) continue;
    if (place) {
      const auto at = std::find(speculative_.begin(), speculative_.end(), *place);
      if (at - speculative_.begin() < static_cast<ptrdiff_t>(older)) --older;
      adopt(*place);
    } else {
      if (table_.free_slots() == 0) {
        if (!drop_speculative(older)) return accepted;
        --older;
      }
      place = assign(key);
      state_[*place] = {};
      try {
        submit(key, *place, ReadPriority::kSpeculative);
      } catch (...) {
        table_.release(key);
        throw;
      }
    }
    state_[*place].reason = Reason::kSpeculative;
    speculative_.push_back(*place);
  }
  return keys.size();
}

void ExpertStream::withdraw(Span<const ExpertKey> keys) {
  take_arrived();
  for (const ExpertKey& key : keys) {
    const std::optional<uint32_t> place = table_.find(key);
    if (place && state_[*place].reason == Reason::kSpeculative) withdraw_place(*place);
  }
}

void ExpertStream::withdraw_place(uint32_t place) {
  if (table_.slot(place).state == SlotState::kReady || lanes_.withdraw(place))
    return free_place(place);
  adopt(place);
  state_[place].reason = Reason::kWithdrawn;
}

bool ExpertStream::drop_speculative(size_t count) {
  for (size_t i = 0; i < count; ++i) {
    const uint32_t place = speculative_[i];
    if (table_.slot(place).state == SlotState::kReading && !lanes_.withdraw(place)) continue;
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
