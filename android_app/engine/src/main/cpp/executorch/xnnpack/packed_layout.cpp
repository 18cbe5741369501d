// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#include "executorch/xnnpack/packed_layout.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "bundle/packed_file.h"

namespace moe_mobile {
namespace {

constexpr size_t kEntryBytes = 20;  // after the name

template <typename T>
T read_little_endian(const uint8_t* source) {
  T value;
  std::memcpy(&value, source, sizeof(T));
  return value;
}

[[noreturn]] void corrupt(const std::string& file, const std::string& cause) {
  throw Error(ErrorCode::kBundleCorrupt, file, "not a packed weights file of XNNPACK: " + cause,
              kRepairPackedStore);
}

}  // namespace

bool PackedLayout::fits(const PackedLayout& other) const {
  return weight_bytes == other.weight_bytes && tensors.size() == other.tensors.size() &&
         std::equal(tensors.begin(), tensors.end(), other.tensors.begin(),
                    [](const PackedTensor& a, const PackedTensor& b) {
                      return a.offset == b.offset && a.size == b.size && a.seed == b.seed;
                    });
}

uint64_t packed_index_offset(Span<const uint8_t> footer, uint64_t size, const std::string& file) {
  if (footer.size() != kPackedFooterBytes || size < kPackedFooterBytes) corrupt(file, "too short");
  const auto offset = read_little_endian<uint64_t>(footer.data());
  if (offset == 0 || offset > size - kPackedFooterBytes) corrupt(file, "index out of range");
  return offset;
}

PackedLayout parse_packed_index(Span<const uint8_t> index, const std::string& file) {
  if (index.size() < kPackedFooterBytes) corrupt(file, "too short");
  const uint8_t* footer = index.end() - kPackedFooterBytes;
  PackedLayout layout;
  layout.weight_bytes = read_little_endian<uint64_t>(footer);
  const auto count = read_little_endian<uint32_t>(footer + 8);
  const uint8_t* cursor = index.data();
  for (uint32_t i = 0; i < count; ++i) {
    if (footer - cursor < 4) corrupt(file, "the index is truncated");
    const auto name_bytes = read_little_endian<uint32_t>(cursor);
    cursor += 4;
    if (static_cast<uint64_t>(footer - cursor) < uint64_t{name_bytes} + kEntryBytes)
      corrupt(file, "the index is truncated");
    PackedTensor tensor;
    tensor.name.assign(reinterpret_cast<const char*>(cursor), name_bytes);
    cursor += name_bytes;
    tensor.offset = read_little_endian<uint64_t>(cursor);
    tensor.size = read_little_endian<uint64_t>(cursor + 8);
    tensor.seed = read_little_endian<uint32_t>(cursor + 16);
    cursor += kEntryBytes;
    if (tensor.size > layout.weight_bytes || tensor.offset > layout.weight_bytes - tensor.size)
      corrupt(file, "a tensor lies outside the file");
    layout.tensors.push_back(std::move(tensor));
  }
  if (cursor != footer || count == 0) corrupt(file, "the index has another length than it says");
  std::sort(layout.tensors.begin(), layout.tensors.end(),
            [](const PackedTensor& a, const PackedTensor& b) { return a.offset < b.offset; });
  return layout;
}

std::vector<uint8_t> moved_packed_index(Span<const uint8_t> index, uint64_t offset) {
  std::vector<uint8_t> moved(index.begin(), index.end());
  std::memcpy(moved.data() + moved.size() - kPackedFooterBytes, &offset, sizeof(offset));
  return moved;
}

}  // namespace moe_mobile
