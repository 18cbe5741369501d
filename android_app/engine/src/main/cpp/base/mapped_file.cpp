// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include <sys/mman.h>

#include <utility>

#include "base/error.h"
#include "base/file.h"

namespace moe_mobile {

MappedFile::MappedFile(int fd, uint64_t offset, size_t length, const std::string& path)
    : size_(length) {
  void* data = ::mmap(nullptr, length, PROT_READ, MAP_PRIVATE, fd, static_cast<off_t>(offset));
  if (data == MAP_FAILED) throw_errno(path, "map into memory");
  data_ = static_cast<const uint8_t*>(data);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<uint8_t*>(data_), size_);
}

}  // namespace moe_mobile
