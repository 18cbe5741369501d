// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "executorch/xnnpack/packed_layout.h"

#include <gtest/gtest.h>

#include <random>

#include "base/expect_error.h"

namespace moe_mobile {
namespace {

using Bytes = std::vector<uint8_t>;

template <typename T>
void append(Bytes* bytes, T value) {
  const auto* raw = reinterpret_cast<const uint8_t*>(&value);
  bytes->insert(bytes->end(), raw, raw + sizeof value);
}

Bytes tail_of(const std::vector<PackedTensor>& tensors, uint64_t index_offset) {
  Bytes tail;
  for (const PackedTensor& tensor : tensors) {
    append(&tail, static_cast<uint32_t>(tensor.name.size()));
    tail.insert(tail.end(), tensor.name.begin(), tensor.name.end());
    append(&tail, tensor.offset);
    append(&tail, tensor.size);
    append(&tail, tensor.seed);
  }
  append(&tail, index_offset);
  append(&tail, static_cast<uint32_t>(tensors.size()));
  append(&tail, uint32_t{0x58575043});
  append(&tail, uint32_t{1});
  return tail;
}

const std::vector<PackedTensor> kTensors = {{"b", 4096, 100, 7}, {"a", 0, 4000, 9}};

TEST(PackedLayout, ReadsTensorsByOffset) {
  const PackedLayout layout = parse_packed_index(tail_of(kTensors, 8192), "x");
  EXPECT_EQ(layout.weight_bytes, 8192u);
  ASSERT_EQ(layout.tensors.size(), 2u);
  EXPECT_EQ(layout.tensors[0].name, "a");
  EXPECT_EQ(layout.tensors[1].offset, 4096u);
  EXPECT_EQ(layout.tensors[1].seed, 7u);
}

TEST(PackedLayout, FitsWithAnyNames) {
  const PackedLayout layout = parse_packed_index(tail_of(kTensors, 8192), "x");
  auto others = kTensors;
  others[0].name = "else";
  EXPECT_TRUE(layout.fits(parse_packed_index(tail_of(others, 8192), "x")));
  EXPECT_FALSE(layout.fits(parse_packed_index(tail_of(kTensors, 12288), "x")));
  for (int member = 0; member < 3; ++member) {
    others = kTensors;
    if (member == 0) others[0].offset += 64;
    if (member == 1) others[0].size += 1;
    if (member == 2) others[0].seed += 1;
    EXPECT_FALSE(layout.fits(parse_packed_index(tail_of(others, 8192), "x"))) << member;
  }
  others = {kTensors[0]};
  EXPECT_FALSE(layout.fits(parse_packed_index(tail_of(others, 8192), "x")));
}

TEST(PackedLayout, MovesTheIndexAndNothingElse) {
  const Bytes tail = tail_of(kTensors, 8192);
  EXPECT_EQ(moved_packed_index(tail, 16384), tail_of(kTensors, 16384));
  EXPECT_EQ(moved_packed_index(tail, 8192), tail);
}

TEST(PackedLayout, FindsTheIndex) {
  const Bytes tail = tail_of(kTensors, 8192);
  const Span<const uint8_t> footer(tail.data() + tail.size() - kPackedFooterBytes,
                                   kPackedFooterBytes);
  EXPECT_EQ(packed_index_offset(footer, 8192 + tail.size(), "x"), 8192u);
  EXPECT_ERROR(packed_index_offset(footer, 8192, "x"), ErrorCode::kBundleCorrupt, "x");
  EXPECT_ERROR(packed_index_offset(footer, 3, "x"), ErrorCode::kBundleCorrupt, "too short");
}

TEST(PackedLayout, RefusesTensorsOutsideTheFile) {
  const uint64_t huge = ~uint64_t{0};
  for (const PackedTensor& tensor : {PackedTensor{"a", 8193, 0, 0}, PackedTensor{"a", 0, 8193, 0},
                                     PackedTensor{"a", huge, 2, 0}, PackedTensor{"a", 2, huge, 0}})
    EXPECT_ERROR(parse_packed_index(tail_of({tensor}, 8192), "file"), ErrorCode::kBundleCorrupt,
                 "file");
  EXPECT_ERROR(parse_packed_index(tail_of({}, 8192), "file"), ErrorCode::kBundleCorrupt, "file");
}

TEST(PackedLayout, AnyDamageIsReadOrRefused) {
  const Bytes intact = tail_of(kTensors, 8192);
  for (size_t length = 0; length < intact.size(); ++length)
    EXPECT_ERROR(parse_packed_index(Bytes(intact.begin(), intact.begin() + length), "f"),
                 ErrorCode::kBundleCorrupt, "f");
  std::mt19937 random(1);
  for (int round = 0; round < 5000; ++round) {
    Bytes damaged = intact;
    for (uint32_t i = 0; i <= random() % 4; ++i)
      damaged[random() % damaged.size()] = static_cast<uint8_t>(random());
    try {
      const PackedLayout layout = parse_packed_index(damaged, "f");
      for (const PackedTensor& tensor : layout.tensors)
        EXPECT_LE(tensor.offset + tensor.size, layout.weight_bytes);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kBundleCorrupt);
    }
  }
}

}  // namespace
}  // namespace moe_mobile
