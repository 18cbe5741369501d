// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "base/crc32c.h"

#include <cstring>

#include "base/cpu.h"

#if defined(MOE_X86)
#include <nmmintrin.h>
#elif defined(MOE_ARM64)
#include <arm_acle.h>
#endif

namespace moe_mobile {
namespace {

constexpr uint32_t kPolynomial = 0x82f63b78;  // reflected: bit 31 is x^0

// tables[k][b]: the register after byte b and k zero bytes.
struct Tables {
  uint32_t tables[8][256];
};

constexpr Tables make_tables() {
  Tables t{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t r = byte;
    for (int bit = 0; bit < 8; ++bit) r = (r >> 1) ^ ((r & 1) != 0 ? kPolynomial : 0);
    t.tables[0][byte] = r;
  }
  for (int k = 1; k < 8; ++k) {
    for (uint32_t byte = 0; byte < 256; ++byte) {
      const uint32_t r = t.tables[k - 1][byte];
      t.tables[k][byte] = (r >> 8) ^ t.tables[0][r & 255];
    }
  }
  return t;
}

constexpr Tables kTables = make_tables();

#if defined(MOE_X86) || defined(MOE_ARM64)

// a * b modulo the polynomial. Without branches: it runs between interleaved stretches.
constexpr uint32_t multiply(uint32_t a, uint32_t b) {
  uint32_t product = 0;
  for (int bit = 31; bit >= 0; --bit) {
    product ^= b & (0u - ((a >> bit) & 1));
    b = (b >> 1) ^ (kPolynomial & (0u - (b & 1)));
  }
  return product;
}

// x^(8 * bytes): multiplying a register by it appends that many zero bytes.
constexpr uint32_t zeros_operator(uint64_t bytes) {
  uint32_t result = 0x80000000;       // 1
  uint32_t square = 0x80000000 >> 8;  // x^8
  for (; bytes > 0; bytes >>= 1) {
    if ((bytes & 1) != 0) result = multiply(result, square);
    square = multiply(square, square);
  }
  return result;
}

// The CPU's instruction takes three cycles but starts one every cycle: three stretches run in
// parallel and are then joined. Two stretch lengths, so that short inputs gain as well.
constexpr size_t kLong = 16384;
constexpr size_t kShort = 512;
constexpr uint32_t kLongOperator = zeros_operator(kLong);
constexpr uint32_t kShortOperator = zeros_operator(kShort);

inline uint64_t load64(const uint8_t* p) {
  uint64_t value;
  std::memcpy(&value, p, 8);
  return value;
}

MOE_TARGET_CRC inline uint32_t step8(uint32_t r, uint64_t value) {
#if defined(MOE_X86)
  return static_cast<uint32_t>(_mm_crc32_u64(r, value));
#else
  return __crc32cd(r, value);
#endif
}

MOE_TARGET_CRC inline uint32_t step1(uint32_t r, uint8_t value) {
#if defined(MOE_X86)
  return _mm_crc32_u8(r, value);
#else
  return __crc32cb(r, value);
#endif
}

MOE_TARGET_CRC inline uint32_t three_stretches(uint32_t r, const uint8_t* p, size_t stretch,
                                               uint32_t zeros) {
  uint32_t second = 0, third = 0;
  for (size_t i = 0; i < stretch; i += 8) {
    r = step8(r, load64(p + i));
    second = step8(second, load64(p + stretch + i));
    third = step8(third, load64(p + 2 * stretch + i));
  }
  return multiply(multiply(r, zeros) ^ second, zeros) ^ third;
}

MOE_TARGET_CRC uint32_t crc32c_cpu(const void* data, size_t length, uint32_t seed) {
  const auto* p = static_cast<const uint8_t*>(data);
  uint32_t r = ~seed;
  for (; length >= 3 * kLong; p += 3 * kLong, length -= 3 * kLong) {
    r = three_stretches(r, p, kLong, kLongOperator);
  }
  for (; length >= 3 * kShort; p += 3 * kShort, length -= 3 * kShort) {
    r = three_stretches(r, p, kShort, kShortOperator);
  }
  for (; length >= 8; p += 8, length -= 8) r = step8(r, load64(p));
  for (; length > 0; ++p, --length) r = step1(r, *p);
  return ~r;
}

#endif

}  // namespace

namespace detail {

uint32_t crc32c_portable(const void* data, size_t length, uint32_t seed) {
  const auto* p = static_cast<const uint8_t*>(data);
  const auto& t = kTables.tables;
  uint32_t r = ~seed;
  for (; length >= 8; p += 8, length -= 8) {
    r = t[7][(r ^ p[0]) & 255] ^ t[6][((r >> 8) ^ p[1]) & 255] ^ t[5][((r >> 16) ^ p[2]) & 255] ^
        t[4][(r >> 24) ^ p[3]] ^ t[3][p[4]] ^ t[2][p[5]] ^ t[1][p[6]] ^ t[0][p[7]];
  }
  for (; length > 0; ++p, --length) r = (r >> 8) ^ t[0][(r ^ *p) & 255];
  return ~r;
}

Crc32c crc32c_hardware() {
#if defined(MOE_X86) || defined(MOE_ARM64)
  if (cpu_has_crc32c()) return crc32c_cpu;
#endif
  return nullptr;
}

}  // namespace detail

uint32_t crc32c(const void* data, size_t length, uint32_t seed) {
  static const detail::Crc32c chosen =
      detail::crc32c_hardware() != nullptr ? detail::crc32c_hardware() : detail::crc32c_portable;
  return chosen(data, length, seed);
}

}  // namespace moe_mobile
