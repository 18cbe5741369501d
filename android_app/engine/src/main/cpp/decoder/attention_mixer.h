// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "bundle/manifest.h"
#include "decoder/attention.h"
#include "decoder/kv_cache.h"
#include "decoder/mixer.h"
#include "decoder/rope.h"

namespace moe_mobile {

// Rotation, KV cache and softmax attention of all layers of a bundle.
class AttentionMixer : public Mixer {
 public:
  // `context` positions, at most the manifest's context_length (kUsage beyond).
  AttentionMixer(const Manifest& manifest, uint32_t context);

  // Bytes of state, before building it.
  static uint64_t state_bytes_for(const Manifest& manifest, uint32_t context);

  uint64_t state_bytes() const override { return cache_.bytes(); }
  void clear() override { cache_.clear(); }
  void begin(uint32_t first, uint32_t count) override;
  void run(uint32_t layer, float* q, float* k, const float* v, float* out,
           const ParallelFor& parallel) override;

 private:
  uint32_t num_heads_;
  float scale_;
  std::vector<uint32_t> windows_;
  Rope rope_;
  KvCache cache_;
  uint32_t first_ = 0;
  uint32_t count_ = 0;
};

}  // namespace moe_mobile
