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

// The physical side of the cache: which expert's bytes lie in which slot.
class SlotTable {
 public:
  explicit SlotTable(uint32_t slots);

  uint32_t slots() const { return static_cast<uint32_t>(keys_.size()); }
  uint32_t free_slots() const { return static_cast<uint32_t>(free_.size()); }
  std::optional<uint32_t> find(const ExpertKey& key) const;
  // Binds the key to a free slot, the most recently freed first. kRuntime if none is free or the
  // key has a slot.
  uint32_t assign(const ExpertKey& key);
  // Frees the key's slot and returns it; kRuntime if it has none.
  uint32_t release(const ExpertKey& key);
  // Frees every slot whose key is not wanted, and returns the wanted keys that lie in no slot, in
  // the order given.
  std::vector<ExpertKey> reconcile(Span<const ExpertKey> wanted);

 private:
  std::vector<std::optional<ExpertKey>> keys_;
  std::vector<uint32_t> free_;
  std::unordered_map<ExpertKey, uint32_t> slots_of_;
};

}  // namespace moe_mobile
