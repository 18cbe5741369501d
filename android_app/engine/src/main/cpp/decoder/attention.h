// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "base/parallel_for.h"
#include "decoder/kv_cache.h"

namespace moe_mobile {

// Softmax attention of queries over the KV cache of one layer, with grouped query heads.
struct AttentionCall {
  const KvCache* cache = nullptr;
  uint32_t num_heads = 0;  // a multiple of the cache's num_kv_heads
  float scale = 1;         // multiplies the scores
  // 0: a query sees all positions up to its own. w: its own and the w - 1 before it.
  uint32_t window = 0;
};

// Rows of a KV cache that holds `window` positions and a batch of `max_batch`. Rounded up so that
// the end of the cache does not cut a block of positions that the kernels compute at once.
uint64_t ring_rows(uint32_t window, uint32_t max_batch);

// `count` queries at positions first, first + 1, ...: q and out are [count, num_heads x head_dim],
// q rotated. Everything that the queries see must be in the cache. A query's result has the same
// bits for any number of queries in the call, of threads, and of rows in the cache.
//
// Throws kUsage if the cache does not hold all positions that the queries see, or if its heads do
// not fit.
void attend_batch(const AttentionCall& call, uint32_t first, uint32_t count, const float* q,
                  float* out, const ParallelFor& parallel = serial_for);

}  // namespace moe_mobile
