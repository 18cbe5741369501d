// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/span.h"

namespace moe_mobile {

// The index of XNNPACK's packed weights file (backends/xnnpack/runtime/XNNWeightsCache in
// ExecuTorch 1.5): packed tensors at page-aligned offsets, then entries that describe them, then a
// 20-byte footer. Entries and footer together are the index of PackedImage. Little endian:
//   entry:       u32 name length, name, u64 offset, u64 size, u32 seed
//   footer:      u64 index offset, u32 entry count, u32 magic, u32 version
struct PackedTensor {
  std::string name;
  uint64_t offset = 0;
  uint64_t size = 0;
  uint32_t seed = 0;  // changes with the micro-kernel that packed it
};

struct PackedLayout {
  uint64_t weight_bytes = 0;          // everything before the entries
  std::vector<PackedTensor> tensors;  // by offset

  // Whether a method that was loaded with this layout can use packed weights of `other`.
  bool fits(const PackedLayout& other) const;
};

// Reads the layout from an index. kBundleCorrupt, naming `file`, if it is not a valid index.
PackedLayout parse_packed_index(Span<const uint8_t> index, const std::string& file);

// Where the index starts in a packed file of `size` bytes whose last 20 bytes are `footer`.
uint64_t packed_index_offset(Span<const uint8_t> footer, uint64_t size, const std::string& file);

// The same index, moved to start at `offset` in a file.
std::vector<uint8_t> moved_packed_index(Span<const uint8_t> index, uint64_t offset);

constexpr size_t kPackedFooterBytes = 20;

}  // namespace moe_mobile
