// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "base/span.h"
#include "cache/expert_key.h"

namespace moe_mobile {

// The logical cache: a bounded set of experts in order of use. It knows neither memory nor reads,
// so that what it decides depends on routing alone, never on what has arrived.
class ExpertCache {
 public:
  struct Outcome {
    std::vector<bool> hit;           // per chosen expert
    std::vector<ExpertKey> evicted;  // least recent first
  };

  explicit ExpertCache(size_t capacity);

  // Uses the experts that one layer selected for one token, given in rank order (best first) and
  // distinct. They never evict each other; misses evict the least recently used of the others.
  // Touches go lowest rank first, so that the best ends most recent. Throws kBudget if
  // more are chosen than fit and kUsage if one is chosen twice; neither changes anything.
  Outcome access(Span<const ExpertKey> chosen);
  // The same without allocating anew.
  void access(Span<const ExpertKey> chosen, Outcome* outcome);

  bool contains(const ExpertKey& key) const { return nodes_of_.count(key) != 0; }
  size_t size() const { return nodes_of_.size(); }
  size_t capacity() const { return capacity_; }
  // Least recent first.
  std::vector<ExpertKey> by_recency() const;
  void clear();

 private:
  struct Node {
    ExpertKey key;
    uint32_t older = kNone;
    uint32_t newer = kNone;
    uint64_t chosen_in = 0;  // number of the access that last chose it
  };
  static constexpr uint32_t kNone = 0xffffffff;

  void unlink(uint32_t node);
  void link_newest(uint32_t node);

  size_t capacity_;
  std::vector<Node> nodes_;
  std::vector<uint32_t> free_;
  std::unordered_map<ExpertKey, uint32_t> nodes_of_;
  uint32_t oldest_ = kNone;
  uint32_t newest_ = kNone;
  uint64_t accesses_ = 0;
};

}  // namespace moe_mobile
