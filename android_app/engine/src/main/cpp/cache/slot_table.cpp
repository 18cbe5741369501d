// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "cache/slot_table.h"

#include <string>
#include <unordered_set>

#include "base/error.h"

namespace moe_mobile {
namespace {

[[noreturn]] void fail(const ExpertKey& key, const char* cause) {
  throw Error(ErrorCode::kRuntime, "",
              "expert " + std::to_string(key.expert) + " of layer " + std::to_string(key.layer) +
                  " " + cause);
}

}  // namespace

SlotTable::SlotTable(uint32_t slots, ResidencyMap* shown)
    : limit_(slots), shown_(shown), slots_(slots) {
  free_.reserve(slots);
  for (uint32_t slot = slots; slot-- > 0;) free_.push_back(slot);  // slot 0 is used first
}

std::vector<uint32_t> SlotTable::resize(uint32_t slots) {
  limit_ = slots;
  std::vector<uint32_t> given_back;
  while (used() + free_.size() > limit_) {
    given_back.push_back(free_.back());
    free_.pop_back();
  }
  spare_.insert(spare_.end(), given_back.begin(), given_back.end());
  return given_back;
}

void SlotTable::set(uint32_t slot, SlotState state) {
  slots_[slot].state = state;
  if (shown_ == nullptr) return;
  shown_->set(slots_[slot].key, state == SlotState::kFree      ? ExpertState::kAbsent
                                : state == SlotState::kReading ? ExpertState::kOnItsWay
                                                               : ExpertState::kReady);
}

std::optional<uint32_t> SlotTable::find(const ExpertKey& key) const {
  const auto found = slots_of_.find(key);
  if (found == slots_of_.end()) return std::nullopt;
  return found->second;
}

uint32_t SlotTable::assign(const ExpertKey& key) {
  if (free_slots() == 0) fail(key, "finds no free slot");
  std::vector<uint32_t>& from = free_.empty() ? spare_ : free_;
  const uint32_t slot = from.empty() ? static_cast<uint32_t>(slots_.size()) : from.back();
  if (!slots_of_.emplace(key, slot).second) fail(key, "has a slot already");
  if (from.empty()) {
    slots_.emplace_back();
  } else {
    from.pop_back();
  }
  slots_[slot].key = key;
  set(slot, SlotState::kReading);
  return slot;
}

uint32_t SlotTable::release(const ExpertKey& key) {
  const auto found = slots_of_.find(key);
  if (found == slots_of_.end()) fail(key, "has no slot");
  const uint32_t slot = found->second;
  slots_of_.erase(found);
  set(slot, SlotState::kFree);
  free_.push_back(slot);
  return slot;
}

void SlotTable::keep_only(Span<const ExpertKey> wanted) {
  const std::unordered_set<ExpertKey> keep(wanted.begin(), wanted.end());
  for (const Slot& slot : slots_) {
    if (slot.state != SlotState::kFree && keep.count(slot.key) == 0) release(slot.key);
  }
}

}  // namespace moe_mobile
