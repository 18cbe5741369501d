// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <map>
#include <memory>
#include <vector>

#include "decoder/mixer.h"
#include "engine/packed_store.h"
#include "engine/progress.h"
#include "executorch/packed_weights.h"

namespace moe_mobile {

// The programs that run for every token: qkv and mix of each layer, and the output head. Packed
// weights come from the store; a program whose delegate does not pack weights is loaded without it.
// In both cases all weights are in anonymous memory, so that page reclaim cannot evict them and the
// bundle's files are not mapped.
class DensePrograms {
 public:
  // Checks every dense file's SHA-256 before ExecuTorch sees it.
  DensePrograms(const Bundle& bundle, const PackedStore& store, PlannedArena* arena,
                const Progress& progress);

  // x [rows, hidden] -> the inputs of the layer's mixer: inputs[i] is [rows, its input_widths[i]].
  void qkv(uint32_t layer, const float* x, uint32_t rows, float* const* inputs);
  // The mixer's outputs, mixed[i] [rows, its output_widths[i]], and x [rows, hidden] -> out [rows,
  // hidden]; in a layer with experts also h [rows, hidden] and logits [rows, experts], which other
  // layers do not change. out may be x.
  void mix(uint32_t layer, const float* const* mixed, const float* x, uint32_t rows, float* out,
           float* h, float* logits);
  // x [1, hidden] -> logits [1, vocab].
  void head(const float* x, float* logits);

 private:
  void load_packed(const PackedStore& store, const DenseEntry& entry, PlannedArena* arena);

  const Manifest& manifest_;
  std::vector<MixerFacts> mixers_;  // by layer
  std::vector<MatrixIn> in_;        // of the current call
  std::vector<MatrixOut> out_;
  std::vector<std::unique_ptr<LoadedProgram>> programs_;
  // By delegate. These own the methods of packed programs, `plain_` those of the others.
  std::map<Delegate, std::unique_ptr<ExchangeableMethods>> packed_;
  std::vector<std::unique_ptr<Method>> plain_;
  std::vector<Method*> methods_;  // qkv and mix of layer 0, of layer 1, ..., head
};

}  // namespace moe_mobile
