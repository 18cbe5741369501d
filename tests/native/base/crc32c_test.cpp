// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "base/crc32c.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

namespace moe_mobile {
namespace {

std::vector<uint8_t> random_bytes(size_t length, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<uint8_t> data(length);
  for (uint8_t& byte : data) byte = static_cast<uint8_t>(random());
  return data;
}

// Bit by bit from the definition.
uint32_t naive(const uint8_t* data, size_t length) {
  uint32_t r = 0xffffffff;
  for (size_t i = 0; i < length; ++i) {
    r ^= data[i];
    for (int bit = 0; bit < 8; ++bit) r = (r >> 1) ^ ((r & 1) != 0 ? 0x82f63b78 : 0);
  }
  return ~r;
}

TEST(Crc32c, MatchesThePublishedVectors) {
  EXPECT_EQ(crc32c("123456789", 9), 0xe3069283u);
  EXPECT_EQ(crc32c(std::string(32, '\0').data(), 32), 0x8a9136aau);  // RFC 3720, B.4
  EXPECT_EQ(crc32c(std::string(32, '\xff').data(), 32), 0x62a8ab43u);
  EXPECT_EQ(crc32c(nullptr, 0), 0u);
}

TEST(Crc32c, AllPathsEqualTheDefinition) {
  const detail::Crc32c hardware = detail::crc32c_hardware();
  for (size_t length = 0; length < 3500; length += 1 + length / 40) {
    const std::vector<uint8_t> data = random_bytes(length + 3, static_cast<unsigned>(length));
    const uint32_t expected = naive(data.data() + 3, length);  // unaligned on purpose
    ASSERT_EQ(detail::crc32c_portable(data.data() + 3, length, 0), expected) << length;
    if (hardware == nullptr) continue;
    ASSERT_EQ(hardware(data.data() + 3, length, 0), expected) << length;
  }
}

TEST(Crc32c, LongInputsAgreeAndContinue) {
  const std::vector<uint8_t> data = random_bytes(300001, 7);
  const uint32_t whole = detail::crc32c_portable(data.data(), data.size(), 0);
  EXPECT_EQ(crc32c(data.data(), data.size()), whole);
  for (const size_t cut : {size_t{1}, size_t{513}, size_t{49152}, size_t{150000}}) {
    const uint32_t first = crc32c(data.data(), cut);
    EXPECT_EQ(crc32c(data.data() + cut, data.size() - cut, first), whole) << cut;
  }
}

}  // namespace
}  // namespace moe_mobile
