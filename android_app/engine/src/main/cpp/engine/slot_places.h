// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <memory>
#include <vector>

#include "engine/expert_places.h"
#include "engine/packed_store.h"
#include "executorch/packed_weights.h"

namespace moe_mobile {

// Places that are live methods of one template program with exchangeable packed weights: one read
// brings in an expert, and nothing is parsed, packed or allocated.
class SlotPlaces : public ExpertPlaces {
 public:
  // Makes one slot; add() makes the others when they are first used. With the template's packed
  // weights the first slot's output must be what `prepare` recorded of the template's program (all
  // slots are of one template and one index), and without them no slot's may be. kRuntime if a slot
  // fails this; kBudget if there is not enough memory, or not enough open files for `most` slots.
  // `store` must outlive it. All experts will be of this variant; each variant has its own
  // template. REQUIRES: packs_experts(), and the store was opened with its experts.
  SlotPlaces(const Bundle& bundle, const PackedStore& store, uint32_t variant, uint32_t most,
             PlannedArena* arena);

  uint32_t count() const override { return static_cast<uint32_t>(slots_.size()); }
  void add(uint32_t most) override;
  void give_back(uint32_t place) override;
  ReadRequest read_request(const ExpertKey& key, uint32_t place) override;
  void arrived(const ExpertKey& key, uint32_t place) override;
  void run(uint32_t place, const float* x, uint32_t rows, float* y) override;

 private:
  struct Slot {
    ExchangeableMethods* group;
    size_t number;  // in the group

    Method& method() const { return group->method(number); }
    uint8_t* weights() const { return group->weights(number); }
  };

  // The template program, from the packed store.
  AlignedBuffer read_template() const;
  // Makes and probes a group of slots.
  void add_group(uint32_t count);
  // The memory of the slot gets the template's packed weights.
  void load_template(ExchangeableMethods* group, size_t number);

  const PackedStore& store_;
  const uint32_t variant_;
  const uint32_t most_;
  PlannedArena* const arena_;
  const uint32_t template_layer_;
  const LayerExperts& template_experts_;
  uint32_t hidden_size_;
  uint32_t num_experts_;
  // By layer and expert: whether this process has checked the blob's CRC.
  std::vector<bool> checked_;
  // Methods are loaded from the mapped program: only one that ignores its slot would read weights
  // there, so it takes no memory.
  MappedFile template_bytes_;
  std::unique_ptr<LoadedProgram> template_;
  std::vector<float> reference_;                              // the template's probe
  std::vector<std::unique_ptr<ExchangeableMethods>> groups_;  // made together
  std::vector<Slot> slots_;
};

}  // namespace moe_mobile
