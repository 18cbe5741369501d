// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "cache/residency_map.h"

#include <algorithm>
#include <utility>

namespace moe_mobile {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;  // entries guard no other memory
constexpr uint32_t kBits = 2;                         // of a state
constexpr uint32_t kMask = (1u << kBits) - 1;

// There is one writer, so this loses nothing.
void add(std::atomic<uint64_t>* counter, uint64_t more) {
  counter->store(counter->load(kRelaxed) + more, kRelaxed);
}

}  // namespace

ResidencyMap::ResidencyMap(std::vector<uint32_t> layers, uint32_t num_experts)
    : layers_(std::move(layers)),
      num_experts_(num_experts),
      rows_(layers_.empty() ? 0 : layers_.back() + 1),
      states_(layers_.size() * num_experts),
      hits_(layers_.size()),
      misses_(layers_.size()) {
  for (size_t row = 0; row < layers_.size(); ++row) rows_[layers_[row]] = row;
}

void ResidencyMap::set(const ExpertKey& key, ExpertState state) {
  std::atomic<uint8_t>& entry = states_[row(key.layer) * num_experts_ + key.expert];
  const uint32_t shift = kBits * key.variant;
  const uint32_t before = entry.load(kRelaxed);
  const uint32_t others = before & ~(kMask << shift);
  entry.store(static_cast<uint8_t>(others | static_cast<uint32_t>(state) << shift), kRelaxed);

  uint32_t& used = used_[key.variant];
  used += state != ExpertState::kAbsent;
  used -= before != others;
  if (used > places_[key.variant].load(kRelaxed)) places_[key.variant].store(used, kRelaxed);
}

void ResidencyMap::limit_places(uint32_t variant, uint32_t most) {
  const uint32_t least = used_[variant];
  const uint32_t now = places_[variant].load(kRelaxed);
  places_[variant].store(std::max(least, std::min(now, most)), kRelaxed);
}

void ResidencyMap::count(uint32_t layer, uint64_t hits, uint64_t misses) {
  add(&hits_[row(layer)], hits);
  add(&misses_[row(layer)], misses);
}

ResidencySnapshot ResidencyMap::snapshot() const {
  ResidencySnapshot snapshot;
  snapshot.layers = layers_;
  snapshot.num_experts = num_experts_;
  snapshot.states.resize(states_.size());
  snapshot.variants.resize(states_.size());
  for (size_t i = 0; i < states_.size(); ++i) {
    const uint32_t entry = states_[i].load(kRelaxed);
    // Among several variants, show the one that is closest to running.
    for (uint32_t variant = 0; variant < ExpertKey::kVariants; ++variant) {
      const auto state = static_cast<ExpertState>(entry >> kBits * variant & kMask);
      if (state <= snapshot.states[i]) continue;
      snapshot.states[i] = state;
      snapshot.variants[i] = static_cast<uint8_t>(variant);
    }
  }
  for (size_t layer = 0; layer < layers_.size(); ++layer) {
    snapshot.hits.push_back(hits_[layer].load(kRelaxed));
    snapshot.misses.push_back(misses_[layer].load(kRelaxed));
  }
  return snapshot;
}

}  // namespace moe_mobile
