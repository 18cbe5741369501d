// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "base/parallel_for.h"
#include "decoder/kv_cache.h"

namespace moe_mobile {

// Softmax attention of queries over one layer of the KV cache, with grouped query heads.
struct AttentionCall {
  const KvCache* cache = nullptr;
  uint32_t layer = 0;
  uint32_t num_heads = 0;  // a multiple of the cache's num_kv_heads
  float scale = 1;         // multiplies the scores
  uint32_t window =
      0;  // 0: all positions up to the query's own; w: that one and the w - 1 before it
};

// `count` queries at positions first, first + 1, ...: q and out are [count, num_heads x head_dim],
// q rotated. All positions up to the last query's must be in the cache. A query's result is the
// same to the bit for any number of queries beside it, and of threads.
void attend_batch(const AttentionCall& call, uint32_t first, uint32_t count, const float* q,
                  float* out, const ParallelFor& parallel = serial_for);

}  // namespace moe_mobile
