// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/machine_secret.h"
#include "base/sha256.h"

namespace moe_mobile {

// One file of the packed store that `prepare` writes: blobs of packed weights for one key (CPU +
// ExecuTorch version). Little endian:
//   header  16 KiB: magic "MOEPACK1", u32 version, u32 key length, key (at most 256 bytes),
//           zeros, u32 CRC-32C of the 16,380 bytes before it
//   blobs   each at a multiple of 16 KiB, zero padded to the next one
//   index   at a multiple of 16 KiB: 56 bytes per blob, as PackedEntry, in the order of the blobs
//   seal    32 bytes: HMAC-SHA-256 with this machine's secret of the header, the SHA-256 of all
//           sealed blobs one after the other, the index and the footer
//   footer  32 bytes: u64 index offset, u64 entry count, u32 CRC-32C of the index, u32 zero,
//           u32 CRC-32C of the 24 bytes before it, magic "END1"
//
// Checksums tell damage, and anyone can make them. The seal tells that this machine wrote the file:
// XNNPACK follows offsets in it without checking them, so a file that came with a bundle is not
// used.

constexpr char kAnyPackedKey[] = "";
constexpr uint64_t kMaxSealedBytes = 1u << 20;      // of one blob
constexpr uint64_t kMaxAllSealedBytes = 64u << 20;  // of a file's

// The remedy for a damaged packed file.
constexpr char kRepairPackedStore[] =
    "Delete the .packed folder and run `moe-mobile prepare` again; if `consume` deleted the "
    "shards, copy or export the bundle again first.";

struct PackedEntry {
  uint64_t offset = 0;    // multiple of kBlobAlignment
  uint64_t length = 0;    // without padding, at least 1
  uint32_t crc32c = 0;    // of the `length` bytes
  bool sealed = false;    // the seal covers its bytes too; small ones only, opening reads them
  Sha256Digest source{};  // the bundle program it was made from
};

// Streams blobs to a temporary file; nothing appears under the final path before commit().
class PackedFileWriter {
 public:
  // Throws what machine_secret() does.
  PackedFileWriter(const std::string& final_path, const std::string& key);
  // Returns the blob's index. kUsage if sealed blobs are too long.
  uint64_t append(const void* data, size_t length, const Sha256Digest& source, bool sealed = false);
  // Writes index, seal and footer, syncs, renames. Call at most once.
  void commit();

 private:
  AtomicFile file_;
  std::string key_;
  MachineSecret secret_;
  Sha256 sealed_;  // of the sealed blobs
  uint64_t sealed_bytes_ = 0;
  std::vector<PackedEntry> entries_;
};

using CheckEntries = std::function<void(const std::vector<PackedEntry>&)>;

// A validated, open packed file. Readers check the blobs themselves (PackedEntry::crc32c).
class PackedFile {
 public:
  // Validates everything but the blobs that are not sealed. kBundleCorrupt if anything is wrong, if
  // the key is not `expected`, or if another machine made the file. kAnyPackedKey accepts all keys
  // and all machines. With `allow_direct` off the file is read through the page cache. `check` gets
  // the index before any blob is read, when the file may still be anyone's; it may throw.
  static PackedFile open(const std::string& path, const std::string& expected_key,
                         bool allow_direct = true, const CheckEntries& check = nullptr);

  const std::string& path() const { return path_; }
  const std::vector<PackedEntry>& entries() const { return entries_; }
  // For reads at aligned offsets and lengths; O_DIRECT if direct().
  int fd() const { return direct() ? direct_.get() : buffered_.get(); }
  // Whether fd() bypasses the page cache: the file system takes O_DIRECT and one direct read gave
  // the same bytes as a buffered one. Otherwise readers should drop what they read
  // (POSIX_FADV_DONTNEED).
  bool direct() const { return direct_.valid(); }
  // One blob through the page cache, its CRC checked.
  AlignedBuffer read(size_t index) const;
  // One blob where it lies; nothing is checked.
  MappedFile map(size_t index) const;

 private:
  // Reads them and checks their checksums.
  Sha256Digest sealed_blobs() const;

  std::string path_;
  UniqueFd buffered_;
  UniqueFd direct_;  // invalid if not used
  std::vector<PackedEntry> entries_;
};

}  // namespace moe_mobile
