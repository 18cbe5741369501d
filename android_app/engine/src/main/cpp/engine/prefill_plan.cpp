// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#include "engine/prefill_plan.h"

#include <algorithm>

namespace moe_mobile {
namespace {

// Finds the room that one batch needs, and makes it.
class Room {
 public:
  Room(size_t places, size_t in_memory, size_t missing)
      : places_(places),
        streaming_(
            std::min(missing, std::min(PrefillPlan::kStreaming, std::max<size_t>(1, places / 4)))),
        staying_(in_memory),
        total_(in_memory + missing) {}

  bool enough() const { return total_ <= places_ && staying_ + streaming_ <= places_; }
  // One expert fewer stays; `in_memory`: whether it is in memory now.
  void leave(bool in_memory) {
    --total_;
    if (in_memory) --staying_;
  }

 private:
  const size_t places_;
  const size_t streaming_;
  size_t staying_;  // in memory now and still after the batch
  size_t total_;    // in memory after the batch
};

}  // namespace

PrefillPlan::PrefillPlan(size_t places, size_t moe_layers) : moe_layers_(moe_layers) {
  resize(places);
}

std::vector<ExpertKey> PrefillPlan::resize(size_t places) {
  places_ = places;
  share_ = std::max<size_t>(1, places / moe_layers_);
  std::vector<ExpertKey> given_up;
  for (std::vector<ExpertKey>& keys : classes_) {
    const size_t excess = in_memory_.size() - std::min(in_memory_.size(), places_);
    const auto end = keys.begin() + static_cast<ptrdiff_t>(std::min(keys.size(), excess));
    for (auto key = keys.begin(); key != end; ++key) in_memory_.erase(*key);
    given_up.insert(given_up.end(), keys.begin(), end);
    keys.erase(keys.begin(), end);
  }
  return given_up;
}

void PrefillPlan::begin(Span<const ExpertKey> in_memory) {
  for (std::vector<ExpertKey>& keys : classes_) keys.clear();
  classes_[kStale].assign(in_memory.begin(), in_memory.end());
  in_memory_ = {in_memory.begin(), in_memory.end()};
}

PrefillPlan::Batch PrefillPlan::next(Span<const ExpertKey> experts, bool last_of_layer) {
  const std::unordered_set<ExpertKey> used(experts.begin(), experts.end());
  for (std::vector<ExpertKey>& keys : classes_)
    keys.erase(std::remove_if(keys.begin(), keys.end(),
                              [&](const ExpertKey& key) { return used.count(key) != 0; }),
               keys.end());
  const auto missing =
      static_cast<size_t>(std::count_if(experts.begin(), experts.end(), [&](const ExpertKey& key) {
        return in_memory_.count(key) == 0;
      }));

  Batch batch;
  Room room(places_, in_memory_.size(), missing);
  const auto give_up = [&](Class of) {
    std::vector<ExpertKey>& keys = classes_[of];
    size_t count = 0;
    for (; count < keys.size() && !room.enough(); ++count) {
      room.leave(true);
      in_memory_.erase(keys[count]);
    }
    const auto end = keys.begin() + static_cast<ptrdiff_t>(count);
    batch.given_up.insert(batch.given_up.end(), keys.begin(), end);
    keys.erase(keys.begin(), end);
  };
  // Experts of the batch pass through, up to this one.
  const auto pass = [&](size_t end) {
    for (; batch.passing < end && !room.enough(); ++batch.passing)
      room.leave(in_memory_.count(experts[batch.passing]) != 0);
  };

  std::vector<ExpertKey>& passed = classes_[kPassed];
  std::vector<ExpertKey>& kept = classes_[kKept];
  std::vector<ExpertKey>& current = classes_[kCurrent];
  size_t first_kept = 0;  // of the batch
  if (last_of_layer) {
    first_kept = experts.size() - std::min(experts.size(), share_);
    const size_t rest = share_ - (experts.size() - first_kept);
    const auto split = current.end() - static_cast<ptrdiff_t>(std::min(current.size(), rest));
    passed.insert(passed.end(), current.begin(), split);
    kept.insert(kept.end(), split, current.end());
    current.clear();
  }
  give_up(kPassed);
  pass(first_kept);
  give_up(kStale);
  give_up(kKept);
  give_up(kCurrent);
  pass(experts.size());

  for (size_t i = 0; i < experts.size(); ++i) {
    if (i < batch.passing) {
      in_memory_.erase(experts[i]);
      continue;
    }
    in_memory_.insert(experts[i]);
    (!last_of_layer ? current : i < first_kept ? passed : kept).push_back(experts[i]);
  }
  return batch;
}

}  // namespace moe_mobile
