// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <unordered_map>
#include <vector>

#include "base/span.h"
#include "cache/expert_key.h"
#include "cache/residency_map.h"

namespace moe_mobile {

enum class SlotState : uint8_t {
  kFree,
  kReading,  // its expert is being read
  kReady,    // its expert can run
};

struct Slot {
  ExpertKey key;  // meaningless if free
  SlotState state = SlotState::kFree;
};

// The physical side of the cache: which expert's bytes are in which slot, or are being read into
// it.
class SlotTable {
 public:
  // `shown` gets every change; null: nothing shows them.
  explicit SlotTable(uint32_t slots, ResidencyMap* shown = nullptr);

  // From now on at most `slots` slots hold an expert. Returns the free slots whose memory is no
  // longer needed. Later growth takes those again, then adds new ones at the end, each when it is
  // first assigned.
  // REQUIRES: no more than that are in use.
  std::vector<uint32_t> resize(uint32_t slots);
  uint32_t free_slots() const { return limit_ - used(); }
  uint32_t used() const { return static_cast<uint32_t>(slots_of_.size()); }
  // What each slot holds now, by its number. Valid until the table changes.
  Span<const Slot> slots() const { return slots_; }
  const Slot& slot(uint32_t slot) const { return slots_[slot]; }
  // The slot that holds the key, or that it is being read into.
  std::optional<uint32_t> find(const ExpertKey& key) const;
  // Binds the key to a free slot, the most recently freed first; it is being read from now on. Its
  // number may be one more than there were slots.
  // kRuntime if none is free or the key has a slot.
  uint32_t assign(const ExpertKey& key);
  // The slot's expert has arrived. REQUIRES: it is being read.
  void set_ready(uint32_t slot) { set(slot, SlotState::kReady); }
  // Frees the key's slot and returns it; kRuntime if it has none.
  uint32_t release(const ExpertKey& key);
  // Frees every slot whose key is not wanted.
  void keep_only(Span<const ExpertKey> wanted);

 private:
  void set(uint32_t slot, SlotState state);

  uint32_t limit_;
  ResidencyMap* const shown_;
  std::vector<Slot> slots_;
  std::vector<uint32_t> free_;   // the most recently freed last
  std::vector<uint32_t> spare_;  // free, too, but given back by resize()
  std::unordered_map<ExpertKey, uint32_t> slots_of_;
};

}  // namespace moe_mobile
