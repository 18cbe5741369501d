// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>
#include <utility>

#include "base/error.h"
#include "base/file.h"

namespace moe_mobile {

void throw_no_memory(const std::string& file, uint64_t bytes) {
  throw Error(ErrorCode::kBudget, file,
              "there is no memory for the " + std::to_string(bytes) + " bytes to be read from it",
              "Close other programs, raise a limit on memory, or use a machine with more.");
}

AlignedBuffer::AlignedBuffer(size_t size, const std::string& file) : size_(size) {
  if (size == 0) return;
  if (size <= SIZE_MAX - kBlobAlignment) {
    data_ = static_cast<uint8_t*>(std::aligned_alloc(kBlobAlignment, capacity()));
  }
  if (data_ == nullptr) {
    if (!file.empty()) throw_no_memory(file, size);
    throw Error(ErrorCode::kBudget, "",
                "cannot allocate " + std::to_string(size) + " bytes of memory",
                "Close other programs or lower the cache budget");
  }
}

AlignedBuffer::AlignedBuffer(AlignedBuffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

AlignedBuffer& AlignedBuffer::operator=(AlignedBuffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

AlignedBuffer::~AlignedBuffer() { std::free(data_); }

}  // namespace moe_mobile
