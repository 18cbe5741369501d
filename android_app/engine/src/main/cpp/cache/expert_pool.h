// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "base/span.h"
#include "cache/eviction.h"

namespace moe_mobile {

// A set of at most `capacity` experts, in order of use. Experts are numbered within a layer, or as
// layer x experts + expert. Accesses allocate nothing.
class ExpertPool {
 public:
  // kUsage if the capacity is above the number of experts.
  ExpertPool(uint32_t experts, uint32_t capacity, const EvictionOptions& eviction);

  // Uses the experts that one layer selected for one token, in rank order and distinct. They never
  // evict each other; the best becomes the most recent. Sets uncached[rank] to 0 or 1 and returns
  // the evicted experts, in that order; valid until the next access. kBudget if more are chosen
  // than fit, kUsage if one is chosen twice or does not exist; neither changes the contents.
  Span<const uint32_t> access(Span<const uint32_t> chosen, uint8_t* uncached);
  // Holds at most `capacity` experts from now on. Returns the experts evicted for that, as access()
  // does. kUsage if the capacity is above the number of experts.
  Span<const uint32_t> resize(uint32_t capacity);
  // For Belady: when the expert is used next after the coming access, as any rising number.
  void set_next_use(uint32_t expert, double when) { merit_[expert] = -when; }

  // A byte per expert: 1 if it is cached, else 0.
  const uint8_t* cached() const { return cached_.data(); }
  uint32_t size() const { return size_; }
  uint32_t capacity() const { return capacity_; }
  // Least recent first.
  std::vector<uint32_t> by_recency() const;

 private:
  uint32_t victim() const;
  // Evicts until `added` more fit.
  void make_room(uint32_t added);
  void count_uses(Span<const uint32_t> chosen);
  void unlink(uint32_t expert);

  uint32_t experts_;
  uint32_t capacity_;
  EvictionOptions eviction_;
  uint32_t size_ = 0;
  uint64_t accesses_ = 0;
  std::vector<uint8_t> cached_;
  std::vector<uint64_t> chosen_in_;  // number of the access that last chose it
  // A ring in order of use through the cached experts and, between newest and oldest, `experts_`.
  std::vector<uint32_t> older_, newer_;
  std::vector<double> merit_;  // the lowest leaves: uses for LFU, minus the next use for Belady
  std::vector<uint32_t> evicted_;
};

}  // namespace moe_mobile
