// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "base/half.h"

#include <cstring>

#include "base/cpu.h"

#if defined(MOE_X86)
#include <immintrin.h>
#elif defined(MOE_ARM64)
#include <arm_neon.h>
#endif

namespace moe_mobile {
namespace {

#if defined(MOE_X86)

// Returns how many values it converted: a multiple of 8.
MOE_TARGET_AVX2 size_t to_halves_avx2(const float* source, uint16_t* destination, size_t count) {
  size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m128i halves = _mm256_cvtps_ph(_mm256_loadu_ps(source + i), _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(destination + i), halves);
  }
  return i;
}

#endif

}  // namespace

uint16_t float_to_half(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) {  // NaN: quiet, upper payload kept, as the hardware does
    return static_cast<uint16_t>(sign | 0x7e00 | ((magnitude >> 13) & 0x3ff));
  }
  if (magnitude >= 0x47800000) return static_cast<uint16_t>(sign | 0x7c00);  // 2^16 and above
  if (magnitude < 0x33000000) return sign;                                   // below 2^-25
  uint32_t mantissa = (magnitude & 0x7fffff) | 0x800000;
  const int exponent = static_cast<int>(magnitude >> 23) - 127;
  // A half keeps 10 bits after the point; subnormals keep fewer. Their exponent field is then zero.
  const int shift = exponent >= -14 ? 13 : -exponent - 1;
  uint32_t half = mantissa >> shift;
  if (exponent >= -14) half += static_cast<uint32_t>(exponent + 14) << 10;
  const uint32_t rest = mantissa & ((1u << shift) - 1);
  const uint32_t middle = 1u << (shift - 1);
  if (rest > middle || (rest == middle && (half & 1) != 0)) ++half;  // may carry into the exponent
  return static_cast<uint16_t>(sign | half);
}

float half_to_float(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t exponent = (half >> 10) & 31;
  uint32_t mantissa = half & 0x3ff;
  uint32_t bits;
  if (exponent == 31) {
    bits = sign | 0x7f800000 | (mantissa << 13) | (mantissa != 0 ? 0x400000 : 0);
  } else if (exponent != 0) {
    bits = sign | ((exponent + 112) << 23) | (mantissa << 13);
  } else if (mantissa == 0) {
    bits = sign;
  } else {
    uint32_t shifted = 113;
    while ((mantissa & 0x400) == 0) {
      mantissa <<= 1;
      --shifted;
    }
    bits = sign | (shifted << 23) | ((mantissa & 0x3ff) << 13);
  }
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

bool floats_to_halves(const float* source, uint16_t* destination, size_t count) {
  size_t i = 0;
#if defined(MOE_X86)
  if (cpu_has_avx2()) i = to_halves_avx2(source, destination, count);
#elif defined(MOE_ARM64)
  for (; i + 4 <= count; i += 4) {
    vst1_u16(destination + i, vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(source + i))));
  }
#endif
  for (; i < count; ++i) destination[i] = float_to_half(source[i]);
  constexpr uint16_t kExponent = 0x7c00;
  uint32_t special = 0;
  for (size_t at = 0; at < count; ++at) special |= (destination[at] & kExponent) == kExponent;
  return special == 0;
}

}  // namespace moe_mobile
