// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "base/cpu.h"
#include "decoder/attention_tile.h"

#if defined(MOE_X86)

#include <immintrin.h>

#define MOE_TILE_TARGET MOE_TARGET_AVX2
#define MOE_SIMD MOE_TARGET_AVX2 static inline

namespace moe_mobile::detail {
namespace {

struct Simd {
  using Vec = __m256;
  static constexpr unsigned kWidth = 8;

  MOE_SIMD Vec broadcast(float x) { return _mm256_set1_ps(x); }
  MOE_SIMD Vec load(const float* p) { return _mm256_loadu_ps(p); }
  MOE_SIMD Vec load(const uint16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  MOE_SIMD void store(float* p, Vec a) { _mm256_storeu_ps(p, a); }
  MOE_SIMD Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
  MOE_SIMD Vec sub(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
  MOE_SIMD Vec mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
  MOE_SIMD Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
  MOE_SIMD Vec max(Vec a, Vec b) { return _mm256_max_ps(a, b); }  // b if one is NaN

  MOE_SIMD float sum(Vec a) {
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
  }
  MOE_SIMD float largest(Vec a) {
    __m128 x = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
  }
  // 2^n, with n in the lowest bits of `shifted`.
  MOE_SIMD Vec power_of_two(Vec shifted) {
    const __m256i exponent = _mm256_slli_epi32(_mm256_castps_si256(shifted), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(exponent, _mm256_set1_epi32(127 << 23)));
  }
  // 0 if x < bound, else y.
  MOE_SIMD Vec zero_where_below(Vec x, Vec bound, Vec y) {
    return _mm256_andnot_ps(_mm256_cmp_ps(x, bound, _CMP_LT_OQ), y);
  }
};

}  // namespace
}  // namespace moe_mobile::detail

#include "decoder/attention_tile_body.h"

namespace moe_mobile::detail {

AttendTile attend_tile_avx2(bool float32) {
  if (!cpu_has_avx2()) return nullptr;
  return float32 ? attend_any<float> : attend_any<uint16_t>;
}

}  // namespace moe_mobile::detail

#else

namespace moe_mobile::detail {

AttendTile attend_tile_avx2(bool) { return nullptr; }

}  // namespace moe_mobile::detail

#endif
