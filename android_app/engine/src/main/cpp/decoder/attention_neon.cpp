// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "base/cpu.h"
#include "decoder/attention_tile.h"

#if defined(MOE_ARM64)

#include <arm_neon.h>

#define MOE_TILE_TARGET  // fused multiply-add and half conversion are part of every 64-bit ARM CPU

namespace moe_mobile::detail {
namespace {

struct Simd {
  using Vec = float32x4_t;
  static constexpr unsigned kWidth = 4;

  static Vec broadcast(float x) { return vdupq_n_f32(x); }
  static Vec load(const float* p) { return vld1q_f32(p); }
  static Vec load(const uint16_t* p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
  static void store(float* p, Vec a) { vst1q_f32(p, a); }
  static Vec add(Vec a, Vec b) { return vaddq_f32(a, b); }
  static Vec sub(Vec a, Vec b) { return vsubq_f32(a, b); }
  static Vec mul(Vec a, Vec b) { return vmulq_f32(a, b); }
  static Vec fma(Vec a, Vec b, Vec c) { return vfmaq_f32(c, a, b); }
  static Vec max(Vec a, Vec b) { return vmaxq_f32(a, b); }
  static float sum(Vec a) { return vaddvq_f32(a); }
  static float largest(Vec a) { return vmaxvq_f32(a); }
  // 2^n, with n in the lowest bits of `shifted`.
  static Vec power_of_two(Vec shifted) {
    const uint32x4_t exponent = vshlq_n_u32(vreinterpretq_u32_f32(shifted), 23);
    return vreinterpretq_f32_u32(vaddq_u32(exponent, vdupq_n_u32(127u << 23)));
  }
  // 0 if x < bound, else y.
  static Vec zero_where_below(Vec x, Vec bound, Vec y) {
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(y), vcltq_f32(x, bound)));
  }
};

}  // namespace
}  // namespace moe_mobile::detail

#include "decoder/attention_tile_body.h"

namespace moe_mobile::detail {

AttendTile attend_tile_neon(bool float32) {
  return float32 ? attend_any<float> : attend_any<uint16_t>;
}

}  // namespace moe_mobile::detail

#else

namespace moe_mobile::detail {

AttendTile attend_tile_neon(bool) { return nullptr; }

}  // namespace moe_mobile::detail

#endif
