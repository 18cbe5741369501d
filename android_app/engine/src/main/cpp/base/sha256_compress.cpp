// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
// The compression function of SHA-256: portable, x86 SHA extensions, ARMv8 SHA2 instructions.
#include "base/cpu.h"
#include "base/sha256.h"

#if defined(MOE_X86)
#include <immintrin.h>
#elif defined(MOE_ARM64)
#include <arm_neon.h>
#endif

namespace moe_mobile::detail {
namespace {

alignas(16) constexpr uint32_t kRound[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

inline uint32_t rotate_right(uint32_t x, int n) { return (x >> n) | (x << (32 - n)); }

// One round; the caller rotates the names instead of the values.
inline void portable_round(uint32_t a, uint32_t b, uint32_t c, uint32_t& d, uint32_t e, uint32_t f,
                           uint32_t g, uint32_t& h, uint32_t wk) {
  h += (rotate_right(e, 6) ^ rotate_right(e, 11) ^ rotate_right(e, 25)) + ((e & f) ^ (~e & g)) + wk;
  d += h;
  h += (rotate_right(a, 2) ^ rotate_right(a, 13) ^ rotate_right(a, 22)) +
       ((a & b) ^ (a & c) ^ (b & c));
}

}  // namespace

void sha256_compress_portable(uint32_t* state, const uint8_t* data, size_t blocks) {
  for (; blocks > 0; --blocks, data += 64) {
    uint32_t w[64];
    for (int i = 0; i < 16; ++i) {
      const uint8_t* p = data + 4 * i;
      w[i] = (static_cast<uint32_t>(p[0]) << 24) | (static_cast<uint32_t>(p[1]) << 16) |
             (static_cast<uint32_t>(p[2]) << 8) | p[3];
    }
    for (int i = 16; i < 64; ++i) {
      const uint32_t a = w[i - 15], b = w[i - 2];
      w[i] = w[i - 16] + w[i - 7] + (rotate_right(a, 7) ^ rotate_right(a, 18) ^ (a >> 3)) +
             (rotate_right(b, 17) ^ rotate_right(b, 19) ^ (b >> 10));
    }
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
    uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
    for (int i = 0; i < 64; i += 8) {  // eight rounds bring every variable back to its place
      portable_round(a, b, c, d, e, f, g, h, kRound[i] + w[i]);
      portable_round(h, a, b, c, d, e, f, g, kRound[i + 1] + w[i + 1]);
      portable_round(g, h, a, b, c, d, e, f, kRound[i + 2] + w[i + 2]);
      portable_round(f, g, h, a, b, c, d, e, kRound[i + 3] + w[i + 3]);
      portable_round(e, f, g, h, a, b, c, d, kRound[i + 4] + w[i + 4]);
      portable_round(d, e, f, g, h, a, b, c, kRound[i + 5] + w[i + 5]);
      portable_round(c, d, e, f, g, h, a, b, kRound[i + 6] + w[i + 6]);
      portable_round(b, c, d, e, f, g, h, a, kRound[i + 7] + w[i + 7]);
    }
    const uint32_t sums[8] = {a, b, c, d, e, f, g, h};
    for (int i = 0; i < 8; ++i) state[i] += sums[i];
  }
}

#if defined(MOE_X86)

namespace {

// Rounds 4g .. 4g + 3 with the message words w.
MOE_TARGET_SHA inline void four_rounds(__m128i& abef, __m128i& cdgh, __m128i w, int g) {
  const __m128i wk =
      _mm_add_epi32(w, _mm_load_si128(reinterpret_cast<const __m128i*>(kRound + 4 * g)));
  cdgh = _mm_sha256rnds2_epu32(cdgh, abef, wk);
  abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(wk, 0x0e));
}

// The next four message words from the last sixteen, oldest in a.
MOE_TARGET_SHA inline __m128i schedule(__m128i a, __m128i b, __m128i c, __m128i d) {
  const __m128i partial = _mm_add_epi32(_mm_sha256msg1_epu32(a, b), _mm_alignr_epi8(d, c, 4));
  return _mm_sha256msg2_epu32(partial, d);
}

MOE_TARGET_SHA void compress_x86(uint32_t* state, const uint8_t* data, size_t blocks) {
  const __m128i swap = _mm_set_epi8(12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3);
  auto* words = reinterpret_cast<__m128i*>(state);
  // The instructions expect the state as (a b e f) and (c d g h), most significant first.
  const __m128i badc = _mm_shuffle_epi32(_mm_loadu_si128(words), 0xb1);
  const __m128i hgfe = _mm_shuffle_epi32(_mm_loadu_si128(words + 1), 0x1b);
  __m128i abef = _mm_alignr_epi8(badc, hgfe, 8);
  __m128i cdgh = _mm_blend_epi16(hgfe, badc, 0xf0);
  for (; blocks > 0; --blocks, data += 64) {
    const auto* in = reinterpret_cast<const __m128i*>(data);
    __m128i w0 = _mm_shuffle_epi8(_mm_loadu_si128(in), swap);
    __m128i w1 = _mm_shuffle_epi8(_mm_loadu_si128(in + 1), swap);
    __m128i w2 = _mm_shuffle_epi8(_mm_loadu_si128(in + 2), swap);
    __m128i w3 = _mm_shuffle_epi8(_mm_loadu_si128(in + 3), swap);
    const __m128i abef_before = abef, cdgh_before = cdgh;
    for (int g = 0;; g += 4) {
      four_rounds(abef, cdgh, w0, g);
      four_rounds(abef, cdgh, w1, g + 1);
      four_rounds(abef, cdgh, w2, g + 2);
      four_rounds(abef, cdgh, w3, g + 3);
      if (g == 12) break;
      w0 = schedule(w0, w1, w2, w3);
      w1 = schedule(w1, w2, w3, w0);
      w2 = schedule(w2, w3, w0, w1);
      w3 = schedule(w3, w0, w1, w2);
    }
    abef = _mm_add_epi32(abef, abef_before);
    cdgh = _mm_add_epi32(cdgh, cdgh_before);
  }
  const __m128i feba = _mm_shuffle_epi32(abef, 0x1b);
  const __m128i dchg = _mm_shuffle_epi32(cdgh, 0xb1);
  _mm_storeu_si128(words, _mm_blend_epi16(feba, dchg, 0xf0));
  _mm_storeu_si128(words + 1, _mm_alignr_epi8(dchg, feba, 8));
}

}  // namespace

Sha256Compress sha256_compress_hardware() { return cpu_has_sha() ? compress_x86 : nullptr; }

#elif defined(MOE_ARM64)

namespace {

MOE_TARGET_SHA inline void four_rounds(uint32x4_t& abcd, uint32x4_t& efgh, uint32x4_t w, int g) {
  const uint32x4_t wk = vaddq_u32(w, vld1q_u32(kRound + 4 * g));
  const uint32x4_t before = abcd;
  abcd = vsha256hq_u32(abcd, efgh, wk);
  efgh = vsha256h2q_u32(efgh, before, wk);
}

MOE_TARGET_SHA inline uint32x4_t schedule(uint32x4_t a, uint32x4_t b, uint32x4_t c, uint32x4_t d) {
  return vsha256su1q_u32(vsha256su0q_u32(a, b), c, d);
}

MOE_TARGET_SHA void compress_arm(uint32_t* state, const uint8_t* data, size_t blocks) {
  uint32x4_t abcd = vld1q_u32(state), efgh = vld1q_u32(state + 4);
  for (; blocks > 0; --blocks, data += 64) {
    uint32x4_t w0 = vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(data)));
    uint32x4_t w1 = vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(data + 16)));
    uint32x4_t w2 = vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(data + 32)));
    uint32x4_t w3 = vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(data + 48)));
    const uint32x4_t abcd_before = abcd, efgh_before = efgh;
    for (int g = 0;; g += 4) {
      four_rounds(abcd, efgh, w0, g);
      four_rounds(abcd, efgh, w1, g + 1);
      four_rounds(abcd, efgh, w2, g + 2);
      four_rounds(abcd, efgh, w3, g + 3);
      if (g == 12) break;
      w0 = schedule(w0, w1, w2, w3);
      w1 = schedule(w1, w2, w3, w0);
      w2 = schedule(w2, w3, w0, w1);
      w3 = schedule(w3, w0, w1, w2);
    }
    abcd = vaddq_u32(abcd, abcd_before);
    efgh = vaddq_u32(efgh, efgh_before);
  }
  vst1q_u32(state, abcd);
  vst1q_u32(state + 4, efgh);
}

}  // namespace

Sha256Compress sha256_compress_hardware() { return cpu_has_sha() ? compress_arm : nullptr; }

#else

Sha256Compress sha256_compress_hardware() { return nullptr; }

#endif

}  // namespace moe_mobile::detail
