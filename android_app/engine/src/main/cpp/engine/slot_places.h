// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <memory>
#include <vector>

#include "engine/expert_places.h"
#include "engine/packed_store.h"
#include "engine/progress.h"
#include "executorch/packed_methods.h"

namespace moe_mobile {

// Places that are live methods of one template program over exchangeable packed weights: an expert
// comes in by one read, and nothing is parsed, packed or allocated.
class SlotPlaces : public ExpertPlaces {
 public:
  // `reference`, the template's output for the probe input, was computed by an ordinary load of the
  // same program. Every slot must give it, bit for bit, from the template's packed weights, and
  // must not give it without them. kRuntime where XNNPACK would not honour a slot; kBudget where
  // memory or open files do not suffice.
  SlotPlaces(const Bundle& bundle, const PackedStore& store, uint32_t count, PlannedArena* arena,
             const Progress& progress);

  uint32_t count() const override { return static_cast<uint32_t>(slots_.size()); }
  ReadRequest read_request(const ExpertKey& key, uint32_t place) override;
  void arrived(const ExpertKey& key, uint32_t place) override;
  void run(uint32_t place, const float* x, uint32_t rows, float* y) override;

 private:
  void probe(const std::vector<float>& reference, const AlignedBuffer& weights,
             const Progress& progress);

  const PackedStore& store_;
  uint32_t hidden_size_;
  uint32_t num_experts_;
  // By layer and expert: whether the blob's CRC matched once in this process.
  std::vector<bool> checked_;
  AlignedBuffer template_bytes_;
  std::unique_ptr<LoadedProgram> template_;
  PackedMethods slots_;
};

}  // namespace moe_mobile
