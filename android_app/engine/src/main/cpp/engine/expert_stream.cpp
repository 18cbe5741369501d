// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#include "engine/expert_stream.h"

#include <algorithm>

#include "base/error.h"
#include "metrics/stopwatch.h"

namespace moe_mobile {

ExpertStream::ExpertStream(std::unique_ptr<ExpertPlaces> places, const Options& options)
    : places_(std::move(places)),
      options_(options),
      cache_(places_->count()),
      table_(places_->count()),
      lanes_(options.lanes) {}

void ExpertStream::submit(const ExpertKey& key, uint32_t place, uint64_t tag,
                          TokenMetrics* metrics) {
  ReadRequest request = places_->read_request(key, place);
  request.tag = tag;
  if (in_flight_.size() <= tag) in_flight_.resize(tag + 1);
  in_flight_[tag] = {key, place, true};
  lanes_.submit(request);
  ++metrics->misses;
}

uint64_t ExpertStream::wait(TokenMetrics* metrics) {
  Stopwatch watch;
  std::exception_ptr failure;
  ReadDone done = lanes_.wait();
  metrics->wait_ns += watch.lap();
  metrics->bytes_read += done.bytes;
  failure = done.error;
  InFlight& arrived = in_flight_[done.tag];
  if (!failure) {
    try {
      places_->arrived(arrived.key, arrived.place);
      arrived.active = false;
    } catch (...) {
      failure = std::current_exception();
    }
  }
  if (failure) {
    while (lanes_.in_flight() > 0) lanes_.wait();
    for (InFlight& read : in_flight_) {
      if (read.active && table_.find(read.key)) table_.release(read.key);
      read.active = false;
    }
    busy_.clear();
    std::rethrow_exception(failure);
  }
  return done.tag;
}

void ExpertStream::run(uint32_t layer, const ExpertJob& job, TokenMetrics* metrics) {
  Stopwatch watch;
  places_->run(*table_.find({layer, job.expert}), job.x, job.rows, job.y);
  metrics->expert_ns += watch.lap();
}

void ExpertStream::decode(uint32_t layer, Span<const ExpertJob> jobs, TokenMetrics* metrics) {
  chosen_.clear();
  for (const ExpertJob& job : jobs) chosen_.push_back({layer, job.expert});
  cache_.access(chosen_, &outcome_);
  for (const ExpertKey& key : outcome_.evicted)
    if (table_.find(key)) table_.release(key);

  std::vector<bool>& ready = outcome_.hit;  // reused: from here on, "its bytes are here"
  size_t reading = 0;
  for (size_t rank = 0; rank < jobs.size(); ++rank) {
    ready[rank] = table_.find(chosen_[rank]).has_value();
    if (ready[rank]) {
      ++metrics->hits;
    } else {
      submit(chosen_[rank], table_.assign(chosen_[rank]), rank, metrics);
      ++reading;
    }
  }
  if (!options_.overlap)
    for (; reading > 0; --reading) ready[wait(metrics)] = true;
  for (size_t rank = 0; rank < jobs.size(); ++rank)
    if (ready[rank]) run(layer, jobs[rank], metrics);
  for (; reading > 0; --reading) run(layer, jobs[wait(metrics)], metrics);
}

bool ExpertStream::make_room() {
  if (table_.free_slots() > 0) return true;
  for (std::deque<ExpertKey>* candidates : {&passed_, &stale_, &kept_}) {
    while (!candidates->empty()) {
      const ExpertKey key = candidates->front();
      candidates->pop_front();
      // What the layer wants is listed again once it has run.
      if (busy_.count(key) != 0 || !table_.find(key)) continue;
      table_.release(key);
      return true;
    }
  }
  return false;
}

void ExpertStream::prefill(uint32_t layer, Span<const ExpertJob> jobs, TokenMetrics* metrics) {
  if (!in_prefill_) {
    in_prefill_ = true;
    passed_.clear();
    kept_.clear();
    const std::vector<ExpertKey> cached = cache_.by_recency();
    stale_.assign(cached.begin(), cached.end());
  }
  // What a token-by-token LRU would keep of this layer, if all layers got equal shares.
  const size_t share = std::max<size_t>(1, places_->count() / options_.moe_layers);
  const size_t first_kept = jobs.size() > share ? jobs.size() - share : 0;
  const size_t reads_ahead = std::min<size_t>(2 * lanes_.lanes(), places_->count());

  std::vector<size_t> hits;
  std::vector<size_t> misses;
  for (size_t i = 0; i < jobs.size(); ++i) {
    const ExpertKey key{layer, jobs[i].expert};
    if (table_.find(key)) {
      hits.push_back(i);
      busy_.insert(key);
    } else {
      misses.push_back(i);
    }
  }
  metrics->hits += static_cast<uint32_t>(hits.size());

  size_t next_miss = 0;
  size_t reading = 0;
  const auto read_more = [&] {
    while (next_miss < misses.size() && reading < reads_ahead && make_room()) {
      const size_t job = misses[next_miss++];
      const ExpertKey key{layer, jobs[job].expert};
      busy_.insert(key);
      submit(key, table_.assign(key), job, metrics);
      ++reading;
    }
  };
  const auto finish = [&](size_t job) {
    const ExpertKey key{layer, jobs[job].expert};
    run(layer, jobs[job], metrics);
    busy_.erase(key);
    (job < first_kept ? passed_ : kept_).push_back(key);
  };
  read_more();
  for (size_t job : hits) {
    finish(job);
    read_more();
  }
  while (reading > 0 || next_miss < misses.size()) {
    if (reading == 0) {
      read_more();
      if (reading == 0)
        throw Error(ErrorCode::kRuntime, "cache", "no place is free for an expert of the prompt");
    }
    const size_t job = wait(metrics);
    --reading;
    finish(job);
    read_more();
  }
}

void ExpertStream::finish_prefill(Span<const uint32_t> selected, Span<const uint32_t> layers,
                                  uint32_t top_k) {
  chosen_.resize(top_k);
  for (size_t at = 0; at + layers.size() * top_k <= selected.size();) {
    for (uint32_t layer : layers) {
      for (uint32_t rank = 0; rank < top_k; ++rank) chosen_[rank] = {layer, selected[at++]};
      cache_.access(chosen_, &outcome_);
    }
  }
  table_.reconcile(cache_.by_recency());
  in_prefill_ = false;
}

void ExpertStream::forget_all() {
  cache_.clear();
  table_.reconcile({});
}

void ExpertStream::load_all(Span<const uint32_t> layers, uint32_t num_experts,
                            const Progress& progress) {
  TokenMetrics unused;
  const uint64_t total = uint64_t{num_experts} * layers.size();
  const size_t reads_ahead = 2 * lanes_.lanes();
  uint64_t done = 0;
  size_t reading = 0;
  const auto wait_one = [&] {
    wait(&unused);
    --reading;
    progress("load", ++done, total);
  };
  uint64_t tag = 0;
  for (uint32_t layer : layers)
    for (uint32_t expert = 0; expert < num_experts; ++expert) {
      const ExpertKey key{layer, expert};
      cache_.access(Span<const ExpertKey>(&key, 1), &outcome_);
      submit(key, table_.assign(key), tag++, &unused);
      if (++reading == reads_ahead) wait_one();
    }
  while (reading > 0) wait_one();
  in_flight_.clear();
}

}  // namespace moe_mobile
