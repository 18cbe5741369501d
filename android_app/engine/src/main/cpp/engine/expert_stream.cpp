// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#include "engine/expert_stream.h"

#include <algorithm>
#include <unordered_set>

#include "base/error.h"
#include "metrics/stopwatch.h"

namespace moe_mobile {
namespace {

// Places that a prompt leaves to experts which only pass through, even where others would like to
// stay: enough to read ahead, and the same for any number of lanes.
constexpr size_t kPrefillPlaces = 8;

}  // namespace

ExpertStream::ExpertStream(std::unique_ptr<ExpertPlaces> places, const Options& options)
    : places_(std::move(places)),
      options_(options),
      cache_(options.cache),
      table_(places_->count()),
      lanes_(options.lanes) {}

void ExpertStream::submit(const ExpertKey& key, uint32_t place, uint64_t tag,
                          TokenMetrics* metrics) {
  if (in_flight_.size() <= tag) in_flight_.resize(tag + 1);
  in_flight_[tag] = {key, place, true};
  ReadRequest request = places_->read_request(key, place);
  request.tag = tag;
  lanes_.submit(request);
  ++metrics->misses;
}

uint64_t ExpertStream::wait(TokenMetrics* metrics) {
  Stopwatch watch;
  ReadDone done = lanes_.wait();
  metrics->wait_ns += watch.lap();
  metrics->bytes_read += done.bytes;
  if (done.error) std::rethrow_exception(done.error);
  InFlight& arrived = in_flight_[done.tag];
  places_->arrived(arrived.key, arrived.place);
  arrived.active = false;
  return done.tag;
}

void ExpertStream::abandon_reads() {
  while (lanes_.in_flight() > 0) lanes_.wait();
  for (InFlight& read : in_flight_) {
    if (read.active && table_.find(read.key)) table_.release(read.key);
    read.active = false;
  }
}

void ExpertStream::run(uint32_t layer, const ExpertJob& job, TokenMetrics* metrics) {
  Stopwatch watch;
  places_->run(*table_.find({layer, job.expert}), job.x, job.rows, job.y);
  metrics->expert_ns += watch.lap();
}

void ExpertStream::decode(uint32_t layer, Span<const ExpertJob> jobs, TokenMetrics* metrics) {
  try {
    decode_jobs(layer, jobs, metrics);
  } catch (...) {
    abandon_reads();
    throw;
  }
}

void ExpertStream::prefill(uint32_t layer, Span<const ExpertJob> jobs, bool last_batch,
                           TokenMetrics* metrics) {
  try {
    prefill_jobs(layer, jobs, last_batch, metrics);
  } catch (...) {
    abandon_reads();
    throw;
  }
}

void ExpertStream::decode_jobs(uint32_t layer, Span<const ExpertJob> jobs, TokenMetrics* metrics) {
  chosen_.clear();
  for (const ExpertJob& job : jobs) chosen_.push_back(job.expert);
  flags_.resize(jobs.size());
  for (const ExpertKey& key : cache_.access(layer, chosen_, flags_.data()))
    if (table_.find(key)) table_.release(key);

  std::vector<uint8_t>& ready = flags_;  // from here on, "its bytes are here"
  size_t reading = 0;
  for (size_t rank = 0; rank < jobs.size(); ++rank) {
    const ExpertKey key{layer, chosen_[rank]};
    ready[rank] = table_.find(key).has_value();
    if (ready[rank]) {
      ++metrics->hits;
    } else {
      submit(key, table_.assign(key), rank, metrics);
      ++reading;
    }
  }
  if (!options_.overlap)
    for (; reading > 0; --reading) ready[wait(metrics)] = true;
  for (size_t rank = 0; rank < jobs.size(); ++rank)
    if (ready[rank]) run(layer, jobs[rank], metrics);
  for (; reading > 0; --reading) run(layer, jobs[wait(metrics)], metrics);
}

size_t ExpertStream::plan_prefill(uint32_t layer, Span<const ExpertJob> jobs, bool last_batch) {
  std::unordered_set<ExpertKey> wanted;
  size_t misses = 0;
  for (const ExpertJob& job : jobs) {
    wanted.insert({layer, job.expert});
    if (!table_.find({layer, job.expert})) ++misses;
  }
  // What this batch uses is listed again below.
  for (std::vector<ExpertKey>* keys : {&passed_, &stale_, &kept_, &current_})
    keys->erase(std::remove_if(keys->begin(), keys->end(),
                               [&](const ExpertKey& key) { return wanted.count(key) != 0; }),
                keys->end());

  const size_t places = places_->count();
  const size_t streaming =
      std::min(misses, std::min(kPrefillPlaces, std::max<size_t>(1, places / 4)));
  size_t here = places - table_.free_slots();  // and will stay
  size_t all = here + misses;                  // after the layer
  const auto enough = [&] { return all <= places && here + streaming <= places; };
  const auto give_up = [&](std::vector<ExpertKey>* keys) {
    size_t count = 0;
    for (; count < keys->size() && !enough(); ++count, --all, --here)
      table_.release((*keys)[count]);
    keys->erase(keys->begin(), keys->begin() + static_cast<ptrdiff_t>(count));
  };
  size_t leaving = 0;
  const auto leave = [&](size_t end) {
    for (; leaving < end && !enough(); ++leaving, --all)
      if (table_.find({layer, jobs[leaving].expert})) --here;
  };
  if (!last_batch) {
    for (std::vector<ExpertKey>* keys : {&passed_, &stale_, &kept_, &current_}) give_up(keys);
    leave(jobs.size());
    for (size_t job = leaving; job < jobs.size(); ++job)
      current_.push_back({layer, jobs[job].expert});
    return leaving;
  }
  // What a token-by-token LRU would keep of this layer, if all layers got equal shares: the most
  // recent, which are this batch's before the earlier ones'.
  const size_t share = std::max<size_t>(1, places / options_.moe_layers);
  const size_t first_kept = jobs.size() > share ? jobs.size() - share : 0;
  const size_t earlier = std::min(current_.size(), share - (jobs.size() - first_kept));
  passed_.insert(passed_.end(), current_.begin(), current_.end() - static_cast<ptrdiff_t>(earlier));
  kept_.insert(kept_.end(), current_.end() - static_cast<ptrdiff_t>(earlier), current_.end());
  current_.clear();
  give_up(&passed_);
  leave(first_kept);
  give_up(&stale_);
  give_up(&kept_);
  leave(jobs.size());
  for (size_t job = leaving; job < jobs.size(); ++job)
    (job < first_kept ? passed_ : kept_).push_back({layer, jobs[job].expert});
  return leaving;
}

void ExpertStream::prefill_jobs(uint32_t layer, Span<const ExpertJob> jobs, bool last_batch,
                                TokenMetrics* metrics) {
  if (!in_prefill_) {
    in_prefill_ = true;
    passed_.clear();
    kept_.clear();
    stale_.clear();
    current_.clear();
    for (const ExpertKey& key : cache_.by_recency())
      if (table_.find(key)) stale_.push_back(key);
  }
  const size_t leaving = plan_prefill(layer, jobs, last_batch);
  std::vector<size_t> hits;
  std::vector<size_t> misses;
  for (size_t job = 0; job < jobs.size(); ++job)
    (table_.find({layer, jobs[job].expert}) ? hits : misses).push_back(job);
  metrics->hits += static_cast<uint32_t>(hits.size());

  const size_t reads_ahead = 2 * lanes_.lanes();
  size_t next_miss = 0;
  size_t reading = 0;
  const auto read_more = [&] {
    for (; next_miss < misses.size() && reading < reads_ahead && table_.free_slots() > 0;
         ++reading) {
      const size_t job = misses[next_miss++];
      const ExpertKey key{layer, jobs[job].expert};
      submit(key, table_.assign(key), job, metrics);
    }
  };
  const auto finish = [&](size_t job) {
    run(layer, jobs[job], metrics);
    if (job < leaving) table_.release({layer, jobs[job].expert});
    read_more();
  };
  read_more();
  for (size_t job : hits) finish(job);
  while (reading > 0) {
    const size_t job = wait(metrics);
    --reading;
    finish(job);
  }
  if (next_miss < misses.size())
    throw Error(ErrorCode::kRuntime, "", "no place is free for an expert of the prompt");
}

void ExpertStream::finish_prefill(Span<const uint32_t> selected, Span<const uint32_t> layers,
                                  uint32_t top_k) {
  flags_.resize(top_k);
  for (size_t at = 0; at + layers.size() * top_k <= selected.size();)
    for (uint32_t layer : layers) {
      cache_.access(layer, Span<const uint32_t>(selected.data() + at, top_k), flags_.data());
      at += top_k;
    }
  table_.reconcile(cache_.by_recency());
  in_prefill_ = false;
}

void ExpertStream::forget_all() {
  cache_.clear();
  table_.reconcile({});
}

void ExpertStream::fill(Span<const std::vector<uint32_t>> best, const Progress& progress) {
  cache_.fill(best);
  const std::vector<ExpertKey> cached = cache_.by_recency();
  table_.reconcile(cached);
  std::vector<ExpertKey> absent;
  for (const ExpertKey& key : cached)
    if (!table_.find(key)) absent.push_back(key);
  try {
    bring_in(absent, progress);
  } catch (...) {
    abandon_reads();
    throw;
  }
}

void ExpertStream::bring_in(Span<const ExpertKey> keys, const Progress& progress) {
  TokenMetrics unused;
  const size_t reads_ahead = 2 * lanes_.lanes();
  size_t reading = 0, done = 0;
  const auto wait_one = [&] {
    wait(&unused);
    --reading;
    progress("load", ++done, keys.size());
  };
  for (size_t tag = 0; tag < keys.size(); ++tag) {
    submit(keys[tag], table_.assign(keys[tag]), tag, &unused);
    if (++reading == reads_ahead) wait_one();
  }
  while (reading > 0) wait_one();
  in_flight_.clear();
}

}  // namespace moe_mobile
