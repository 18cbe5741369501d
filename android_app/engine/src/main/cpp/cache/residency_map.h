// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <vector>

#include "cache/expert_key.h"
#include "cache/residency_snapshot.h"

namespace moe_mobile {

// What ResidencySnapshot shows, live. One thread writes; any thread takes snapshots, without a
// lock, so they cost the writer nothing. Each entry of a snapshot is true at some moment during the
// call, which need not be the same for all.
class ResidencyMap {
 public:
  // `layers`: the model's numbers of those with experts, ascending.
  ResidencyMap(std::vector<uint32_t> layers, uint32_t num_experts);

  // REQUIRES: the layer has experts, `key` is one of them, and its variant is below
  // ExpertKey::kVariants.
  void set(const ExpertKey& key, ExpertState state);
  void count(uint32_t layer, uint64_t hits, uint64_t misses);

  ResidencySnapshot snapshot() const;

  // How many places of a variant hold memory, with or without an expert. A place keeps its memory
  // when its expert leaves, and is then the first to be used again, so this is the largest number
  // of experts that were in memory at once, until memory is given back.
  uint32_t places(uint32_t variant) const {
    return places_[variant].load(std::memory_order_relaxed);
  }
  // So many places hold memory before their first expert.
  void make_places(uint32_t variant, uint32_t count) { places_[variant] = count; }
  // Memory was given back: at most `most` places, or those with an expert if they are more, still
  // hold some. Called by the writer.
  void limit_places(uint32_t variant, uint32_t most);

 private:
  size_t row(uint32_t layer) const { return rows_[layer]; }

  const std::vector<uint32_t> layers_;
  const uint32_t num_experts_;
  std::vector<size_t> rows_;                           // by the model's number of a layer
  std::vector<std::atomic<uint8_t>> states_;           // [L, E], two bits for each variant
  std::vector<std::atomic<uint64_t>> hits_, misses_;   // [L]
  std::array<uint32_t, ExpertKey::kVariants> used_{};  // places with an expert; for the writer
  std::array<std::atomic<uint32_t>, ExpertKey::kVariants> places_{};
};

}  // namespace moe_mobile
