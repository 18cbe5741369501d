// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <list>
#include <vector>

#include "cache/expert_key.h"

namespace moe_mobile::testing {

// The rules of an LRU pool, with the plainest data structure.
class NaiveCache {
 public:
  using Keys = std::vector<ExpertKey>;
  struct Outcome {
    std::vector<bool> hit;
    Keys evicted;
  };

  explicit NaiveCache(size_t capacity) : capacity_(capacity) {}

  Outcome access(const Keys& chosen) {
    Outcome outcome;
    size_t misses = 0;
    for (const ExpertKey& k : chosen) {
      const bool hit = std::find(order_.begin(), order_.end(), k) != order_.end();
      outcome.hit.push_back(hit);
      misses += !hit;
    }
    auto at = order_.begin();
    while (order_.size() + misses > capacity_) {
      if (std::find(chosen.begin(), chosen.end(), *at) != chosen.end()) {
        ++at;
        continue;
      }
      outcome.evicted.push_back(*at);
      at = order_.erase(at);
    }
    for (auto k = chosen.rbegin(); k != chosen.rend(); ++k) {
      order_.remove(*k);
      order_.push_back(*k);
    }
    return outcome;
  }

  void resize(size_t capacity) {
    capacity_ = capacity;
    while (order_.size() > capacity_) order_.pop_front();
  }

  // Least recent first.
  Keys by_recency() const { return Keys(order_.begin(), order_.end()); }
  size_t capacity() const { return capacity_; }

 private:
  size_t capacity_;
  std::list<ExpertKey> order_;
};

}  // namespace moe_mobile::testing
