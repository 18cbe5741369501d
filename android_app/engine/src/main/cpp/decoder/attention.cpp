// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "decoder/attention.h"

#include <algorithm>
#include <vector>

#include "base/error.h"
#include "decoder/attention_tile.h"

namespace moe_mobile {
namespace detail {

AttendTile attend_tile(bool float32) {
  if (AttendTile tile = attend_tile_avx2(float32)) return tile;
  if (AttendTile tile = attend_tile_neon(float32)) return tile;
  return attend_tile_portable(float32);
}

}  // namespace detail

namespace {

using detail::kTileHeads;

// Below this many multiplications a thread pool costs more than it gains.
constexpr uint64_t kWorthThreads = 1u << 17;

void check(const AttentionCall& call, uint32_t first, uint32_t count) {
  const KvShape& shape = call.cache->shape();
  const uint64_t end = static_cast<uint64_t>(first) + count;
  const bool wraps = end > shape.rows;
  const bool held = !wraps || (call.window != 0 && shape.rows % detail::kTileBlock == 0 &&
                               static_cast<uint64_t>(call.window) - 1 + count <= shape.rows);
  if (!held || call.num_heads == 0 || call.num_heads % shape.num_kv_heads != 0) {
    throw Error(ErrorCode::kUsage, "", "the attention does not fit the KV cache's shape");
  }
}

}  // namespace

uint64_t ring_rows(uint32_t window, uint32_t max_batch) {
  const uint64_t rows = static_cast<uint64_t>(window) - 1 + max_batch;
  return (rows + detail::kTileBlock - 1) / detail::kTileBlock * detail::kTileBlock;
}

void attend_batch(const AttentionCall& call, uint32_t first, uint32_t count, const float* q,
                  float* out, const ParallelFor& parallel) {
  check(call, first, count);
  const KvCache& cache = *call.cache;
  const uint32_t head_dim = cache.shape().head_dim, stride = cache.stride();
  const uint32_t group = call.num_heads / cache.shape().num_kv_heads;
  const uint32_t tiles_per_group = (group + kTileHeads - 1) / kTileHeads;
  const size_t tiles = static_cast<size_t>(cache.shape().num_kv_heads) * tiles_per_group;
  const detail::AttendTile attend_one = detail::attend_tile(cache.shape().float32);

  // A unit is one tile of heads of one query; a tile's queries follow each other because they share
  // keys.
  const auto run = [&](size_t begin, size_t end) {
    thread_local std::vector<float> scratch;
    scratch.assign(2 * static_cast<size_t>(kTileHeads) * stride, 0.0f);
    float* scaled = scratch.data();
    float* result = scaled + kTileHeads * static_cast<size_t>(stride);
    for (size_t unit = begin; unit < end; ++unit) {
      const auto kv_head = static_cast<uint32_t>(unit / count / tiles_per_group);
      const auto in_group = static_cast<uint32_t>(unit / count % tiles_per_group) * kTileHeads;
      const auto row = static_cast<uint32_t>(unit % count);
      const size_t first_head = static_cast<size_t>(kv_head) * group + in_group;
      const size_t at = (static_cast<size_t>(row) * call.num_heads + first_head) * head_dim;

      detail::AttentionTile tile;
      tile.heads = std::min(kTileHeads, group - in_group);
      for (uint32_t h = 0; h < tile.heads; ++h) {
        for (uint32_t d = 0; d < head_dim; ++d) {
          scaled[h * stride + d] = q[at + static_cast<size_t>(h) * head_dim + d] * call.scale;
        }
      }
      const uint32_t position = first + row;
      tile.q = scaled;
      tile.keys = cache.keys(kv_head);
      tile.values = cache.values(kv_head);
      tile.end = position + 1;
      tile.begin = call.window == 0 || call.window >= tile.end ? 0 : tile.end - call.window;
      tile.rows = cache.shape().rows;
      tile.stride = stride;
      tile.out = result;
      attend_one(tile);
      for (uint32_t h = 0; h < tile.heads; ++h) {
        std::copy_n(result + h * stride, head_dim, out + at + static_cast<size_t>(h) * head_dim);
      }
    }
  };

  uint64_t seen = static_cast<uint64_t>(first) + count;
  if (call.window != 0) seen = std::min<uint64_t>(seen, call.window);
  const uint64_t work = 2 * seen * count * call.num_heads * head_dim;
  if (work < kWorthThreads) {
    run(0, tiles * count);
  } else {
    parallel(tiles * count, run);
  }
}

}  // namespace moe_mobile
