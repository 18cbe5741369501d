// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace moe_mobile {

// Blobs, buffers and direct reads are aligned to this: Android's larger page size, and enough for
// any O_DIRECT.
constexpr uint64_t kBlobAlignment = 16384;

constexpr uint64_t align_up(uint64_t value, uint64_t alignment) {
  return (value + alignment - 1) / alignment * alignment;
}

// Bytes of one call: Linux transfers at most about 2 GiB.
constexpr size_t kMaxTransfer = 1u << 30;

// Owns a file descriptor.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(other.release()) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept;
  UniqueFd(const UniqueFd&) = delete;
  UniqueFd& operator=(const UniqueFd&) = delete;
  ~UniqueFd() { reset(); }

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  int release();
  void reset();

 private:
  int fd_ = -1;
};

// Opens a regular file for reading. Links, folders, pipes and devices are refused (kBundleInvalid)
// without blocking on them. With `direct`, throws kIo if the file system has no O_DIRECT; the
// caller decides what to do.
UniqueFd open_read(const std::string& path, bool direct = false);

// Length of an open file in bytes.
uint64_t file_size(int fd, const std::string& path);

// Reads exactly `bytes` at `offset`. kBundleCorrupt if the file ends before, kIo for other
// failures.
void read_exactly(int fd, void* destination, size_t bytes, uint64_t offset,
                  const std::string& path);

// Writes all bytes at the descriptor's position.
void write_all(int fd, const void* source, size_t bytes, const std::string& path);

// Reads a whole regular file of at most `max_bytes` bytes (kBundleInvalid if it is longer).
std::string read_text(const std::string& path, uint64_t max_bytes);

// Bytes that may still be written to the file system of this file or folder.
uint64_t free_space(const std::string& path);

// Makes the folder and those above it that are missing. kReadOnly or kIo if one cannot be made.
void make_directories(const std::string& path, unsigned mode = 0755);

// Makes renames in the folder durable. File systems that cannot sync folders are accepted.
void sync_directory(const std::string& path);

// A file that appears under `path` complete and durable, or not at all. It is written under a
// temporary name in the same folder; the destructor removes that name unless commit() succeeded.
class AtomicFile {
 public:
  explicit AtomicFile(std::string path);
  AtomicFile(AtomicFile&& other) noexcept;
  AtomicFile& operator=(AtomicFile&&) = delete;
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile();

  const std::string& path() const { return path_; }
  int fd() const { return fd_.get(); }
  uint64_t position() const { return position_; }

  // Appends at position().
  void write(const void* source, size_t bytes);
  // Writes at `offset` without moving position().
  void pwrite(const void* source, size_t bytes, uint64_t offset);
  // fsync, rename over `path`, fsync the folder. Call at most once.
  void commit();

 private:
  std::string path_;
  std::string temporary_;
  UniqueFd fd_;
  uint64_t position_ = 0;
};

// A part of a file in the address space. It takes memory only while it is read, and the system may
// drop it again. REQUIRES: the file does not become shorter.
class MappedFile {
 public:
  MappedFile() = default;
  // `offset`: a multiple of kBlobAlignment.
  MappedFile(int fd, uint64_t offset, size_t length, const std::string& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  const uint8_t* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

// kBudget: the bytes, which are to be read from `file`, do not fit in memory.
[[noreturn]] void throw_no_memory(const std::string& file, uint64_t bytes);

// Uninitialised memory aligned to kBlobAlignment, its capacity rounded up to the same, so that a
// direct read of a whole padded blob fits.
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  // kBudget if there is no memory for it. The error names `file`, whose bytes are to lie there.
  explicit AlignedBuffer(size_t size, const std::string& file = "");
  AlignedBuffer(AlignedBuffer&& other) noexcept;
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept;
  AlignedBuffer(const AlignedBuffer&) = delete;
  AlignedBuffer& operator=(const AlignedBuffer&) = delete;
  ~AlignedBuffer();

  uint8_t* data() { return data_; }
  const uint8_t* data() const { return data_; }
  size_t size() const { return size_; }
  size_t capacity() const { return align_up(size_, kBlobAlignment); }

 private:
  uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace moe_mobile
