// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

namespace moe_mobile {

enum class ExpertState : uint8_t {
  kAbsent,
  kOnItsWay,  // it is being read
  kReady,     // it can run
};

// Which experts are in memory, and the hits and misses so far.
struct ResidencySnapshot {
  std::vector<uint32_t> layers;     // [L] the model's numbers of the layers with experts, ascending
  uint32_t num_experts = 0;         // E, of each of them
  std::vector<ExpertState> states;  // [L, E]
  std::vector<uint8_t> variants;    // [L, E] the precision in memory; 0 if absent
  std::vector<uint64_t> hits, misses;  // [L] since the engine was opened
};

}  // namespace moe_mobile
