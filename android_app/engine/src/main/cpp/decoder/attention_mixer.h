// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "bundle/manifest.h"
#include "decoder/kv_cache.h"
#include "decoder/mixer.h"
#include "decoder/rope.h"

namespace moe_mobile {

// Softmax attention over the layer's own KV cache. Inputs: q [n, num_heads x head_dim], k and v
// [n, num_kv_heads x head_dim], not yet rotated. Output: [n, num_heads x head_dim].
//
// A layer with a sliding window keeps the positions that its window and one batch need, so its
// state does not grow with the context.
class AttentionMixer : public Mixer {
 public:
  // `context`: largest number of positions. `max_batch`: largest number of rows of run().
  static MixerFacts facts_for(const AttentionSpec& spec, uint32_t context, uint32_t max_batch);

  // `rope` holds the rotations of each step's positions; layers with equal frequencies share it.
  // `manifest_path` and `layer` are for errors.
  AttentionMixer(std::string manifest_path, uint32_t layer, const AttentionSpec& spec,
                 uint32_t context, uint32_t max_batch, std::shared_ptr<const Rope> rope);

  void clear() override;
  void mark(uint32_t first, uint32_t count) override;
  void rewind() override;
  // kRuntime if the KV cache cannot hold the keys and values.
  void run(uint32_t first, uint32_t count, float* const* inputs, float* const* outputs,
           const ParallelFor& parallel) override;

 private:
  std::string manifest_path_;
  uint32_t layer_;
  uint32_t num_heads_;
  float scale_;
  uint32_t window_;
  uint32_t context_;
  std::shared_ptr<const Rope> rope_;
  KvCache cache_;
  // Rows that the step may overwrite, which a rewind must restore.
  uint32_t saved_first_ = 0;
  uint32_t saved_count_ = 0;
  std::vector<uint8_t> saved_;
};

}  // namespace moe_mobile
