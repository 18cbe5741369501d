// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "cache/expert_pool.h"

#include <string>

#include "base/error.h"

namespace moe_mobile {
namespace {

// Counters below it are 0: processors are slow with subnormal numbers.
constexpr double kForgotten = 1e-300;

void require_capacity(uint32_t capacity, uint32_t experts) {
  if (capacity > experts)
    throw Error(ErrorCode::kUsage, Setting{"capacity"},
                "a cache for " + std::to_string(capacity) + " of " + std::to_string(experts) +
                    " experts is larger than all of them",
                "Give at most the number of experts.");
}

}  // namespace

ExpertPool::ExpertPool(uint32_t experts, uint32_t capacity, const EvictionOptions& eviction)
    : experts_(experts),
      capacity_(capacity),
      eviction_(eviction),
      cached_(experts, 0),
      chosen_in_(experts, 0),
      older_(experts + 1, experts),
      newer_(experts + 1, experts),
      merit_(eviction.kind == EvictionOptions::Kind::kLru ? 0 : experts, 0.0) {
  require_capacity(capacity, experts);
  evicted_.reserve(capacity);
}

Span<const uint32_t> ExpertPool::access(Span<const uint32_t> chosen, uint8_t* uncached) {
  if (chosen.size() > capacity_)
    throw Error(ErrorCode::kBudget, Setting{"capacity"},
                "the cache holds " + std::to_string(capacity_) + " experts, one layer needs " +
                    std::to_string(chosen.size()) + " at once",
                "Raise it to at least that many");
  ++accesses_;
  uint32_t added = 0;
  for (size_t rank = 0; rank < chosen.size(); ++rank) {
    const uint32_t expert = chosen[rank];
    if (expert >= experts_ || chosen_in_[expert] == accesses_)
      throw Error(ErrorCode::kUsage, "",
                  "one layer chose an expert twice, or one that does not exist");
    chosen_in_[expert] = accesses_;
    uncached[rank] = cached_[expert] ^ 1;
    added += uncached[rank];
  }

  // Room is made before anything is touched: the order of use before this access decides.
  make_room(added);

  for (size_t rank = chosen.size(); rank-- > 0;) {
    const uint32_t expert = chosen[rank];
    if (cached_[expert] != 0) unlink(expert);
    const uint32_t newest = older_[experts_];
    older_[expert] = newest;
    newer_[expert] = experts_;
    newer_[newest] = expert;
    older_[experts_] = expert;
    cached_[expert] = 1;
  }
  size_ += added;
  if (eviction_.kind == EvictionOptions::Kind::kLfu) count_uses(chosen);
  return evicted_;
}

Span<const uint32_t> ExpertPool::resize(uint32_t capacity) {
  require_capacity(capacity, experts_);
  capacity_ = capacity;
  ++accesses_;  // no expert is in use: the last access's choice may leave, too
  make_room(0);
  evicted_.reserve(capacity);
  return evicted_;
}

void ExpertPool::make_room(uint32_t added) {
  evicted_.clear();
  while (size_ + added > capacity_) {
    const uint32_t expert = victim();
    unlink(expert);
    cached_[expert] = 0;
    --size_;
    evicted_.push_back(expert);
  }
}

uint32_t ExpertPool::victim() const {
  uint32_t best = experts_;
  for (uint32_t expert = newer_[experts_]; expert != experts_; expert = newer_[expert]) {
    if (chosen_in_[expert] == accesses_) continue;
    if (eviction_.kind == EvictionOptions::Kind::kLru) return expert;
    if (best == experts_ || merit_[expert] < merit_[best]) best = expert;
  }
  return best;
}

void ExpertPool::count_uses(Span<const uint32_t> chosen) {
  for (double& uses : merit_) {
    uses *= eviction_.decay;
    uses = uses < kForgotten ? 0 : uses;
  }
  for (const uint32_t expert : chosen) merit_[expert] += 1;
}

void ExpertPool::unlink(uint32_t expert) {
  const uint32_t older = older_[expert], newer = newer_[expert];
  newer_[older] = newer;
  older_[newer] = older;
}

std::vector<uint32_t> ExpertPool::by_recency() const {
  std::vector<uint32_t> experts;
  for (uint32_t expert = newer_[experts_]; expert != experts_; expert = newer_[expert])
    experts.push_back(expert);
  return experts;
}

}  // namespace moe_mobile
