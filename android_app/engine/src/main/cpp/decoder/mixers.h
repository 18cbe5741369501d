// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <vector>

#include "bundle/manifest.h"
#include "decoder/mixer.h"
#include "decoder/rope.h"

namespace moe_mobile {

// The inputs, outputs and state of a layer's mixer, for a context of that many positions.
// REQUIRES: layer < manifest.num_layers.
MixerFacts mixer_facts(const Manifest& manifest, uint32_t layer, uint32_t context);

// Columns of all inputs of a mixer together, and of all its outputs.
struct MixerColumns {
  uint64_t inputs = 0;
  uint64_t outputs = 0;
};

// The largest of these over all layers, each number by itself.
MixerColumns widest_mixer(const Manifest& manifest);

// The mixers of all layers, and the rotations that they share.
class Mixers {
 public:
  // Throws kUsage if `context` is not 1 to manifest.context_length, kBudget if their memory cannot
  // be reserved.
  Mixers(const Manifest& manifest, uint32_t context);

  // Bytes of all states at full context. Throws as the constructor does, without reserving.
  static uint64_t state_bytes(const Manifest& manifest, uint32_t context);
  // Bytes of the rotations of a prompt that fills the context.
  static uint64_t rope_bytes(const Manifest& manifest, uint32_t context);

  // Forgets all positions.
  void clear();
  // Begins a step of positions first .. first + count - 1 in all layers. Throws kUsage beyond the
  // context.
  void begin(uint32_t first, uint32_t count);
  // Forgets the step begun last, in all layers.
  void rewind();

  Mixer& operator[](uint32_t layer) { return *layers_[layer]; }

 private:
  std::vector<std::shared_ptr<Rope>> ropes_;  // all different
  std::vector<std::unique_ptr<Mixer>> layers_;
};

}  // namespace moe_mobile
