// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include <cstdint>
#include <cstring>

#include "base/half.h"
#include "decoder/attention_tile.h"

#define MOE_TILE_TARGET

namespace moe_mobile::detail {
namespace {

struct Simd {
  struct Vec {
    float x[4];
  };
  static constexpr unsigned kWidth = 4;

  static Vec broadcast(float x) { return {{x, x, x, x}}; }
  static Vec load(const float* p) { return {{p[0], p[1], p[2], p[3]}}; }
  static Vec load(const uint16_t* p) {
    return {{half_to_float(p[0]), half_to_float(p[1]), half_to_float(p[2]), half_to_float(p[3])}};
  }
  static void store(float* p, Vec a) { std::memcpy(p, a.x, sizeof a.x); }
  static Vec add(Vec a, Vec b) {
    for (unsigned i = 0; i < kWidth; ++i) a.x[i] += b.x[i];
    return a;
  }
  static Vec sub(Vec a, Vec b) {
    for (unsigned i = 0; i < kWidth; ++i) a.x[i] -= b.x[i];
    return a;
  }
  static Vec mul(Vec a, Vec b) {
    for (unsigned i = 0; i < kWidth; ++i) a.x[i] *= b.x[i];
    return a;
  }
  static Vec fma(Vec a, Vec b, Vec c) {
    for (unsigned i = 0; i < kWidth; ++i) c.x[i] += a.x[i] * b.x[i];
    return c;
  }
  static Vec max(Vec a, Vec b) {  // b if one is NaN
    for (unsigned i = 0; i < kWidth; ++i) b.x[i] = a.x[i] > b.x[i] ? a.x[i] : b.x[i];
    return b;
  }
  static float sum(Vec a) { return (a.x[0] + a.x[2]) + (a.x[1] + a.x[3]); }
  static float largest(Vec a) {
    float most = a.x[0];
    for (const float x : a.x) most = x > most ? x : most;
    return most;
  }
  // 2^n, with n in the lowest bits of `shifted`.
  static Vec power_of_two(Vec shifted) {
    uint32_t bits[kWidth];
    std::memcpy(bits, shifted.x, sizeof bits);
    for (uint32_t& b : bits) b = (b << 23) + (127u << 23);
    std::memcpy(shifted.x, bits, sizeof bits);
    return shifted;
  }
  // 0 if x < bound, else y.
  static Vec zero_where_below(Vec x, Vec bound, Vec y) {
    for (unsigned i = 0; i < kWidth; ++i) y.x[i] = x.x[i] < bound.x[i] ? 0.0f : y.x[i];
    return y;
  }
};

}  // namespace
}  // namespace moe_mobile::detail

#include "decoder/attention_tile_body.h"

namespace moe_mobile::detail {

AttendTile attend_tile_portable(bool float32) {
  return float32 ? attend_any<float> : attend_any<uint16_t>;
}

}  // namespace moe_mobile::detail
