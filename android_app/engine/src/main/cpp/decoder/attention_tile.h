// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace moe_mobile::detail {

// The most query heads of one tile. They share keys and are computed together.
constexpr uint32_t kTileHeads = 4;
// Positions per step of the online softmax. Steps begin at multiples of it for every query, so a
// query's sums always have the same order: in prefill and decode, in full and in wrapped caches.
constexpr uint32_t kTileBlock = 64;

// The heads of one tile, for one query.
struct AttentionTile {
  const float* q = nullptr;      // [heads, stride], scaled; zero beyond head_dim
  uint32_t heads = 0;            // 1 .. kTileHeads
  const void* keys = nullptr;    // [rows, stride]: position p lies in row p % rows
  const void* values = nullptr;  // the same
  uint32_t rows = 0;             // at least end, or a multiple of kTileBlock
  uint32_t begin = 0;            // first position seen
  uint32_t end = 0;              // one beyond the last; above begin
  uint32_t stride = 0;           // a multiple of 8
  float* out = nullptr;          // [heads, stride]
};

using AttendTile = void (*)(const AttentionTile& tile);

// The implementations; `float32`: whether the cache holds float32. Null if the CPU does not have
// the instructions.
AttendTile attend_tile_portable(bool float32);
AttendTile attend_tile_avx2(bool float32);
AttendTile attend_tile_neon(bool float32);

// The fastest one that this CPU supports.
AttendTile attend_tile(bool float32);

}  // namespace moe_mobile::detail
