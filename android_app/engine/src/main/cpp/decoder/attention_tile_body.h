// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
// The attention of one tile, written once over a small vector type. The including file defines, in
// this order:
//   MOE_TILE_TARGET  the attribute that enables its instructions (may be empty)
//   Simd             in an anonymous namespace: Vec, kWidth (4 or 8) and the operations used below
// Only attention_{portable,avx2,neon}.cpp include this. No lambdas: they would not inherit the
// attribute.
#pragma once

#include <cmath>
#include <cstddef>
#include <limits>

#include "decoder/attention_tile.h"

// The short loops over heads, positions and vectors must be unrolled, or their sums would not stay
// in registers.
#if defined(__clang__)
#define MOE_UNROLL _Pragma("unroll")
#else
#define MOE_UNROLL _Pragma("GCC unroll 8")
#endif

namespace moe_mobile::detail {
namespace {

using Vec = Simd::Vec;
constexpr uint32_t kWidth = Simd::kWidth;

// e^x for x <= 0: 2^n times a polynomial in the rest, relative error below 3e-7. Zero below -87,
// where floats become subnormal. NaN stays NaN.
MOE_TILE_TARGET inline Vec exp_of_nonpositive(Vec x) {
  const Vec lowest = Simd::broadcast(-87.0f);
  const Vec clamped = Simd::max(lowest, x);
  // Adding 1.5 * 2^23 rounds to an integer, which then is in the lowest bits.
  const Vec magic = Simd::broadcast(12582912.0f);
  const Vec shifted = Simd::fma(clamped, Simd::broadcast(1.44269504f), magic);
  const Vec n = Simd::sub(shifted, magic);
  Vec r = Simd::fma(n, Simd::broadcast(-0.693359375f), clamped);  // ln 2 in two parts
  r = Simd::fma(n, Simd::broadcast(2.12194440e-4f), r);
  Vec p = Simd::broadcast(1.0f / 720);
  p = Simd::fma(p, r, Simd::broadcast(1.0f / 120));
  p = Simd::fma(p, r, Simd::broadcast(1.0f / 24));
  p = Simd::fma(p, r, Simd::broadcast(1.0f / 6));
  p = Simd::fma(p, r, Simd::broadcast(0.5f));
  p = Simd::fma(p, r, Simd::broadcast(1.0f));
  p = Simd::fma(p, r, Simd::broadcast(1.0f));
  return Simd::zero_where_below(x, lowest, Simd::mul(p, Simd::power_of_two(shifted)));
}

// Scores of `Heads` heads for `Positions` consecutive keys. Each score has one accumulator, for all
// template arguments, so tiling never changes a result.
template <int Heads, int Positions, typename Element>
MOE_TILE_TARGET inline void score_some(const float* q, const Element* keys, uint32_t stride,
                                       float* scores) {
  Vec sums[Heads][Positions];
  MOE_UNROLL
  for (int h = 0; h < Heads; ++h) {
    MOE_UNROLL
    for (int t = 0; t < Positions; ++t) sums[h][t] = Simd::broadcast(0);
  }
  for (uint32_t d = 0; d < stride; d += kWidth) {
    Vec k[Positions];
    MOE_UNROLL
    for (int t = 0; t < Positions; ++t) k[t] = Simd::load(keys + t * stride + d);
    MOE_UNROLL
    for (int h = 0; h < Heads; ++h) {
      const Vec qh = Simd::load(q + h * stride + d);
      MOE_UNROLL
      for (int t = 0; t < Positions; ++t) sums[h][t] = Simd::fma(qh, k[t], sums[h][t]);
    }
  }
  MOE_UNROLL
  for (int h = 0; h < Heads; ++h) {
    MOE_UNROLL
    for (int t = 0; t < Positions; ++t) scores[h * kTileBlock + t] = Simd::sum(sums[h][t]);
  }
}

template <int Heads, typename Element>
MOE_TILE_TARGET void score_block(const float* q, const Element* keys, uint32_t count,
                                 uint32_t stride, float* scores) {
  constexpr int kPositions = Heads == 1 ? 8 : Heads == 2 ? 4 : 2;  // enough sums to hide latency
  uint32_t t = 0;
  for (; t + kPositions <= count; t += kPositions) {
    score_some<Heads, kPositions>(q, keys + static_cast<size_t>(t) * stride, stride, scores + t);
  }
  for (; t < count; ++t) {
    score_some<Heads, 1>(q, keys + static_cast<size_t>(t) * stride, stride, scores + t);
  }
}

// Adds the weighted values of `count` positions to `Vectors` vectors of each head's result.
template <int Heads, int Vectors, typename Element>
MOE_TILE_TARGET inline void add_some(const float* weights, const Element* values, uint32_t count,
                                     uint32_t stride, float* out) {
  Vec sums[Heads][Vectors];
  MOE_UNROLL
  for (int h = 0; h < Heads; ++h) {
    MOE_UNROLL
    for (int i = 0; i < Vectors; ++i) sums[h][i] = Simd::load(out + h * stride + i * kWidth);
  }
  for (uint32_t t = 0; t < count; ++t) {
    Vec v[Vectors];
    MOE_UNROLL
    for (int i = 0; i < Vectors; ++i) {
      v[i] = Simd::load(values + static_cast<size_t>(t) * stride + i * kWidth);
    }
    MOE_UNROLL
    for (int h = 0; h < Heads; ++h) {
      const Vec weight = Simd::broadcast(weights[h * kTileBlock + t]);
      MOE_UNROLL
      for (int i = 0; i < Vectors; ++i) sums[h][i] = Simd::fma(weight, v[i], sums[h][i]);
    }
  }
  MOE_UNROLL
  for (int h = 0; h < Heads; ++h) {
    MOE_UNROLL
    for (int i = 0; i < Vectors; ++i) Simd::store(out + h * stride + i * kWidth, sums[h][i]);
  }
}

template <int Heads, typename Element>
MOE_TILE_TARGET void add_block(const float* weights, const Element* values, uint32_t count,
                               uint32_t stride, float* out) {
  constexpr int kVectors = Heads == 1 ? 8 : Heads == 2 ? 4 : 2;
  uint32_t d = 0;
  for (; d + kVectors * kWidth <= stride; d += kVectors * kWidth) {
    add_some<Heads, kVectors>(weights, values + d, count, stride, out + d);
  }
  for (; d < stride; d += kWidth) {
    add_some<Heads, 1>(weights, values + d, count, stride, out + d);
  }
}

// Turns one head's scores of a block into weights relative to the largest score so far, and
// rescales the sums made with the former largest. scores has room up to kTileBlock.
MOE_TILE_TARGET inline void softmax_step(float* scores, uint32_t count, uint32_t stride, float* out,
                                         float* largest, float* total) {
  const float before = *largest;
  for (uint32_t t = count; t % kWidth != 0; ++t) {
    scores[t] = -std::numeric_limits<float>::infinity();
  }
  Vec most = Simd::broadcast(before);
  for (uint32_t t = 0; t < count; t += kWidth) most = Simd::max(most, Simd::load(scores + t));
  const float now = Simd::largest(most);
  const Vec shift = Simd::broadcast(now);
  Vec sum = Simd::broadcast(0);
  for (uint32_t t = 0; t < count; t += kWidth) {
    const Vec weight = exp_of_nonpositive(Simd::sub(Simd::load(scores + t), shift));
    Simd::store(scores + t, weight);
    sum = Simd::add(sum, weight);
  }
  if (now != before) {
    const float factor = std::exp(before - now);  // 0 in the first step
    *total *= factor;
    const Vec factors = Simd::broadcast(factor);
    for (uint32_t d = 0; d < stride; d += kWidth) {
      Simd::store(out + d, Simd::mul(Simd::load(out + d), factors));
    }
  }
  *total += Simd::sum(sum);
  *largest = now;
}

template <int Heads, typename Element>
MOE_TILE_TARGET void attend_heads(const AttentionTile& tile) {
  alignas(32) float scores[Heads * kTileBlock];
  float largest[Heads], total[Heads];
  const auto* keys = static_cast<const Element*>(tile.keys);
  const auto* values = static_cast<const Element*>(tile.values);
  const uint32_t stride = tile.stride;
  MOE_UNROLL
  for (int h = 0; h < Heads; ++h) {
    largest[h] = -std::numeric_limits<float>::infinity();
    total[h] = 0;
    for (uint32_t d = 0; d < stride; d += kWidth) {
      Simd::store(tile.out + h * stride + d, Simd::broadcast(0));
    }
  }
  for (uint32_t begin = tile.begin; begin < tile.end;) {
    const uint32_t next = (begin / kTileBlock + 1) * kTileBlock;
    const uint32_t count = (next < tile.end ? next : tile.end) - begin;
    const size_t first = static_cast<size_t>(begin % tile.rows) * stride;
    score_block<Heads>(tile.q, keys + first, count, stride, scores);
    MOE_UNROLL
    for (int h = 0; h < Heads; ++h) {
      softmax_step(scores + h * kTileBlock, count, stride, tile.out + h * stride, &largest[h],
                   &total[h]);
    }
    add_block<Heads>(scores, values + first, count, stride, tile.out);
    begin += count;
  }
  MOE_UNROLL
  for (int h = 0; h < Heads; ++h) {
    const Vec factor = Simd::broadcast(1.0f / total[h]);
    float* out = tile.out + h * stride;
    for (uint32_t d = 0; d < stride; d += kWidth) {
      Simd::store(out + d, Simd::mul(Simd::load(out + d), factor));
    }
  }
}

template <typename Element>
MOE_TILE_TARGET void attend_any(const AttentionTile& tile) {
  switch (tile.heads) {
    case 1:
      return attend_heads<1, Element>(tile);
    case 2:
      return attend_heads<2, Element>(tile);
    case 3:
      return attend_heads<3, Element>(tile);
    default:
      return attend_heads<4, Element>(tile);
  }
}

}  // namespace
}  // namespace moe_mobile::detail
