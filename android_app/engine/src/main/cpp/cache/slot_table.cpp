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

SlotTable::SlotTable(uint32_t slots) : slots_(slots) {
  free_.reserve(slots);
  for (uint32_t slot = slots; slot-- > 0;) free_.push_back(slot);  // slot 0 is taken first
}

std::optional<uint32_t> SlotTable::find(const ExpertKey& key) const {
  const auto found = slots_of_.find(key);
  if (found == slots_of_.end()) return std::nullopt;
  return found->second;
}

uint32_t SlotTable::assign(const ExpertKey& key) {
  if (free_.empty()) fail(key, "finds no free slot");
  const uint32_t slot = free_.back();
  if (!slots_of_.emplace(key, slot).second) fail(key, "has a slot already");
  free_.pop_back();
  slots_[slot] = {key, SlotState::kReading};
  return slot;
}

uint32_t SlotTable::release(const ExpertKey& key) {
  const auto found = slots_of_.find(key);
  if (found == slots_of_.end()) fail(key, "has no slot");
  const uint32_t slot = found->second;
  slots_of_.erase(found);
  slots_[slot].state = SlotState::kFree;
  free_.push_back(slot);
  return slot;
}

std::vector<ExpertKey> SlotTable::reconcile(Span<const ExpertKey> wanted) {
  const std::unordered_set<ExpertKey> keep(wanted.begin(), wanted.end());
  for (const Slot& slot : slots_) {
    if (slot.state != SlotState::kFree && keep.count(slot.key) == 0) release(slot.key);
  }
  std::vector<ExpertKey> missing;
  for (const ExpertKey& key : wanted) {
    if (slots_of_.count(key) == 0) missing.push_back(key);
  }
  return missing;
}

}  // namespace moe_mobile
