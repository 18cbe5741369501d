// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "base/parallel_for.h"

namespace moe_mobile {

// What mixes positions between a layer's `qkv` and `mix` programs. Attention is one; others have
// other states.
class Mixer {
 public:
  virtual ~Mixer() = default;
  // Bytes of state at full context.
  virtual uint64_t state_bytes() const = 0;
  // Forgets all positions.
  virtual void clear() = 0;
  // Called once per batch of positions first .. first + count - 1, before run() of any layer.
  virtual void begin(uint32_t first, uint32_t count) = 0;
  // Appends the batch begun to a layer's state and runs it: q [count, num_heads x head_dim], k and
  // v [count, num_kv_heads x head_dim], out [count, num_heads x head_dim]. q and k may be changed.
  virtual void run(uint32_t layer, float* q, float* k, const float* v, float* out,
                   const ParallelFor& parallel) = 0;
};

}  // namespace moe_mobile
