// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "cache/expert_cache.h"

#include <string>

#include "base/error.h"

namespace moe_mobile {

ExpertCache::ExpertCache(size_t capacity) : capacity_(capacity) {
  if (capacity >= kNone)
    throw Error(ErrorCode::kUsage, "", "the expert cache's capacity is absurd");
}

ExpertCache::Outcome ExpertCache::access(Span<const ExpertKey> chosen) {
  Outcome outcome;
  access(chosen, &outcome);
  return outcome;
}

void ExpertCache::access(Span<const ExpertKey> chosen, Outcome* outcome) {
  if (chosen.size() > capacity_) {
    throw Error(ErrorCode::kBudget, Setting{"cache"},
                "it holds " + std::to_string(capacity_) + " experts, one layer needs " +
                    std::to_string(chosen.size()) + " at once",
                "Raise the cache budget");
  }
  outcome->hit.assign(chosen.size(), false);
  outcome->evicted.clear();
  ++accesses_;

  const auto refuse_twice = [] {
    throw Error(ErrorCode::kUsage, "", "one layer chose an expert twice");
  };
  size_t misses = 0;
  for (size_t rank = 0; rank < chosen.size(); ++rank) {
    const auto found = nodes_of_.find(chosen[rank]);
    if (found != nodes_of_.end()) {
      if (nodes_[found->second].chosen_in == accesses_) refuse_twice();
      outcome->hit[rank] = true;
      nodes_[found->second].chosen_in = accesses_;
      continue;
    }
    ++misses;
    for (size_t better = 0; better < rank; ++better) {
      if (chosen[better] == chosen[rank]) refuse_twice();
    }
  }

  // Make room before anything is touched, so that the order of use before this access decides.
  // Never more than chosen.size() chosen entries are stepped over.
  uint32_t candidate = oldest_;
  while (size() + misses > capacity_) {
    const uint32_t node = candidate;
    candidate = nodes_[node].newer;
    if (nodes_[node].chosen_in == accesses_) continue;
    outcome->evicted.push_back(nodes_[node].key);
    nodes_of_.erase(nodes_[node].key);
    unlink(node);
    free_.push_back(node);
  }

  for (size_t rank = chosen.size(); rank-- > 0;) {
    if (outcome->hit[rank]) {
      const uint32_t node = nodes_of_.find(chosen[rank])->second;
      unlink(node);
      link_newest(node);
      continue;
    }
    uint32_t node;
    if (free_.empty()) {
      node = static_cast<uint32_t>(nodes_.size());
      nodes_.emplace_back();
    } else {
      node = free_.back();
      free_.pop_back();
    }
    nodes_[node].key = chosen[rank];
    nodes_of_.emplace(chosen[rank], node);
    link_newest(node);
  }
}

std::vector<ExpertKey> ExpertCache::by_recency() const {
  std::vector<ExpertKey> keys;
  keys.reserve(size());
  for (uint32_t node = oldest_; node != kNone; node = nodes_[node].newer) {
    keys.push_back(nodes_[node].key);
  }
  return keys;
}

void ExpertCache::clear() {
  nodes_.clear();
  free_.clear();
  nodes_of_.clear();
  oldest_ = newest_ = kNone;
}

void ExpertCache::unlink(uint32_t node) {
  const uint32_t older = nodes_[node].older, newer = nodes_[node].newer;
  (older == kNone ? oldest_ : nodes_[older].newer) = newer;
  (newer == kNone ? newest_ : nodes_[newer].older) = older;
}

void ExpertCache::link_newest(uint32_t node) {
  nodes_[node].older = newest_;
  nodes_[node].newer = kNone;
  (newest_ == kNone ? oldest_ : nodes_[newest_].newer) = node;
  newest_ = node;
}

}  // namespace moe_mobile
