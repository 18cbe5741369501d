// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <unordered_map>
#include <vector>

#include "base/span.h"
#include "cache/expert_key.h"

namespace moe_mobile {

enum class SlotState : uint8_t {
  kFree,
  kReading,  // its expert is on its way
  kReady,    // its expert can run
};

struct Slot {
  ExpertKey key;  // of no meaning if free
  SlotState state = SlotState::kFree;
};

// The physical side of the cache: which expert's bytes lie in which slot, or are on their way
// there.
class SlotTable {
 public:
  explicit SlotTable(uint32_t slots);

  uint32_t free_slots() const { return static_cast<uint32_t>(free_.size()); }
  // What each slot holds, by its number: what is in memory now, at no cost. Valid until the table
  // changes.
  Span<const Slot> slots() const { return slots_; }
  const Slot& slot(uint32_t slot) const { return slots_[slot]; }
  // The slot that holds the key, or that it is being read into.
  std::optional<uint32_t> find(const ExpertKey& key) const;
  // Binds the key to a free slot, the most recently freed first; it is being read from now on.
  // kRuntime if none is free or the key has a slot.
  uint32_t assign(const ExpertKey& key);
  // The slot's expert has arrived. REQUIRES: it is being read.
  void set_ready(uint32_t slot) { slots_[slot].state = SlotState::kReady; }
  // Frees the key's slot and returns it; kRuntime if it has none.
  uint32_t release(const ExpertKey& key);
  // Frees every slot whose key is not wanted, and returns the wanted keys that have no slot, in
  // the order given.
  std::vector<ExpertKey> reconcile(Span<const ExpertKey> wanted);

 private:
  std::vector<Slot> slots_;
  std::vector<uint32_t> free_;
  std::unordered_map<ExpertKey, uint32_t> slots_of_;
};

}  // namespace moe_mobile
