// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <memory>
#include <vector>

#include "engine/expert_places.h"
#include "engine/packed_store.h"
#include "engine/progress.h"
#include "executorch/packed_weights.h"

namespace moe_mobile {

// Places that are live methods of one template program over exchangeable packed weights: an expert
// comes in by one read, and nothing is parsed, packed or allocated.
class SlotPlaces : public ExpertPlaces {
 public:
  // Probes every slot: with the template's packed weights it must give, bit for bit, the output of
  // an ordinary load of the template's program, and without them it must not. kRuntime if a slot
  // does not; kBudget if there is not enough memory, or not enough open files. `store` must stay.
  // REQUIRES: packs_experts(), and the store was opened with its experts.
  SlotPlaces(const Bundle& bundle, const PackedStore& store, uint32_t count, PlannedArena* arena,
             const Progress& progress);

  uint32_t count() const override { return static_cast<uint32_t>(slots_->size()); }
  ReadRequest read_request(const ExpertKey& key, uint32_t place) override;
  void arrived(const ExpertKey& key, uint32_t place) override;
  void run(uint32_t place, const float* x, uint32_t rows, float* y) override;

 private:
  // `reference`: the output of the ordinary load. `weights`: the template's.
  void probe(const std::vector<float>& reference, const AlignedBuffer& weights,
             const Progress& progress);

  const PackedStore& store_;
  uint32_t hidden_size_;
  uint32_t num_experts_;
  // By layer and expert: whether this process saw the blob's CRC match.
  std::vector<bool> checked_;
  AlignedBuffer template_bytes_;
  std::unique_ptr<LoadedProgram> template_;
  std::unique_ptr<ExchangeableMethods> slots_;
};

}  // namespace moe_mobile
