// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "base/parallel_for.h"

namespace moe_mobile {

// Facts about a layer's mixer that are known before it is built. Widths are columns of float32
// matrices.
struct MixerFacts {
  std::vector<uint32_t> input_widths;   // of the outputs of the layer's `qkv` program
  std::vector<uint32_t> output_widths;  // of the inputs of its `mix` program, apart from x
  uint64_t state_bytes = 0;             // at full context
};

// The only part of a layer that combines positions. It runs between the layer's `qkv` and `mix`
// programs and keeps the state that later positions need. Each layer has a mixer of its own, which
// Mixers (mixers.h) makes from the manifest's entry.
//
// A step is a prompt or one token. It runs as mark(), then run() for one batch after the other. If
// the step fails, rewind() forgets it.
class Mixer {
 public:
  explicit Mixer(MixerFacts facts) : facts_(std::move(facts)) {}
  Mixer(const Mixer&) = delete;
  Mixer& operator=(const Mixer&) = delete;
  virtual ~Mixer() = default;

  const MixerFacts& facts() const { return facts_; }

  // Forgets all positions.
  virtual void clear() = 0;
  // Begins a step of `count` positions from `first` on, and saves the state for rewind().
  // REQUIRES: `first` is the number of positions seen since clear().
  virtual void mark(uint32_t first, uint32_t count) = 0;
  // Goes back to the state of the last mark().
  virtual void rewind() = 0;
  // Adds positions first .. first + count - 1 to the state and mixes them. inputs[i] is
  // [count, input_widths[i]] and may be changed; outputs[i] is [count, output_widths[i]].
  // REQUIRES: batches of a step come in order, without gaps, none larger than max_batch.
  virtual void run(uint32_t first, uint32_t count, float* const* inputs, float* const* outputs,
                   const ParallelFor& parallel) = 0;

 private:
  MixerFacts facts_;
};

}  // namespace moe_mobile
