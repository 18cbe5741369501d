// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "bundle/packed_file.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>

#include "base/crc32c.h"
#include "base/error.h"
#include "base/hmac.h"
#include "base/machine_secret.h"

namespace moe_mobile {
namespace {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the format is little endian");

constexpr char kMagic[8] = {'M', 'O', 'E', 'P', 'A', 'C', 'K', '1'};
constexpr char kEnd[4] = {'E', 'N', 'D', '1'};
constexpr uint32_t kVersion = 2;
constexpr size_t kMaxKey = 256;
constexpr uint64_t kMaxEntries = 1u << 20;

struct Header {
  char magic[8];
  uint32_t version;
  uint32_t key_length;
  char key[kMaxKey];
  char zeros[kBlobAlignment - 8 - 4 - 4 - kMaxKey - 4];
  uint32_t crc;  // of all before it
};
static_assert(sizeof(Header) == kBlobAlignment);

struct IndexEntry {
  uint64_t offset;
  uint64_t length;
  uint32_t crc;
  uint32_t sealed;  // 0 or 1
  uint8_t source[32];
};
static_assert(sizeof(IndexEntry) == 56);

struct Footer {
  uint64_t index_offset;
  uint64_t entries;
  uint32_t index_crc;
  uint32_t zero;
  uint32_t crc;  // of the 24 bytes before it
  char magic[4];
};
static_assert(sizeof(Footer) == 32);

[[noreturn]] void refuse(const std::string& path, const std::string& cause) {
  throw Error(ErrorCode::kBundleCorrupt, path, cause, kRepairPackedStore);
}

// Whole as it may be: another user's, or of another folder of secrets, it may be the only copy.
[[noreturn]] void refuse_foreign(const std::string& path) {
  const std::string folder = state_directory();
  throw Error(ErrorCode::kBundleCorrupt, path,
              "was not made on this machine by this user, so it is not used",
              "If another user or with another HOME, XDG_STATE_HOME or MOE_MOBILE_STATE_DIR "
              "prepared the bundle, use it as then; the secret is looked for in " +
                  (folder.empty() ? std::string("no folder now") : folder) +
                  ". If the bundle came prepared from elsewhere, run `moe-mobile prepare`; without "
                  "shards, copy or export it again first.");
}

Header header_of(const std::string& key) {
  Header header{};
  std::copy(std::begin(kMagic), std::end(kMagic), header.magic);
  header.version = kVersion;
  header.key_length = static_cast<uint32_t>(key.size());
  std::copy(key.begin(), key.end(), header.key);
  header.crc = crc32c(&header, offsetof(Header, crc));
  return header;
}

Header read_header(int fd, const std::string& path, const std::string& expected_key) {
  Header header;
  read_exactly(fd, &header, sizeof header, 0, path);
  if (std::memcmp(header.magic, kMagic, sizeof kMagic) != 0) refuse(path, "is not a packed file");
  if (header.crc != crc32c(&header, offsetof(Header, crc))) {
    refuse(path, "has a header that does not match its checksum");
  }
  if (header.version != kVersion) {
    refuse(path, "has version " + std::to_string(header.version) + ", this build knows " +
                     std::to_string(kVersion));
  }
  if (header.key_length > kMaxKey) refuse(path, "has a key that is too long");
  const std::string key(header.key, header.key_length);
  if (!expected_key.empty() && key != expected_key) {
    refuse(path, "was packed for " + in_quotes(key) + ", this is " + in_quotes(expected_key));
  }
  return header;
}

Footer read_footer(int fd, uint64_t size, const std::string& path) {
  Footer footer;
  read_exactly(fd, &footer, sizeof footer, size - sizeof footer, path);
  if (std::memcmp(footer.magic, kEnd, sizeof kEnd) != 0 ||
      footer.crc != crc32c(&footer, offsetof(Footer, crc))) {
    refuse(path, "has no valid footer: it is truncated or overwritten");
  }
  const uint64_t index_end = size - sizeof footer - sizeof(Sha256Digest);
  if (footer.entries > kMaxEntries || footer.index_offset % kBlobAlignment != 0 ||
      footer.index_offset < sizeof(Header) || footer.index_offset > index_end ||
      index_end - footer.index_offset != footer.entries * sizeof(IndexEntry)) {
    refuse(path, "has an index that does not fit the file");
  }
  return footer;
}

std::vector<IndexEntry> read_index(int fd, const Footer& footer, const std::string& path) {
  std::vector<IndexEntry> index(footer.entries);
  const size_t index_bytes = index.size() * sizeof(IndexEntry);
  read_exactly(fd, index.data(), index_bytes, footer.index_offset, path);
  if (footer.index_crc != crc32c(index.data(), index_bytes)) {
    refuse(path, "has an index that does not match its checksum");
  }
  return index;
}

std::vector<PackedEntry> check_index(const std::vector<IndexEntry>& index, const Footer& footer,
                                     const std::string& path) {
  std::vector<PackedEntry> entries;
  uint64_t next = sizeof(Header);
  uint64_t sealed_bytes = 0;
  for (const IndexEntry& e : index) {
    // Blobs follow one another without gaps, so that each has one possible place.
    if (e.offset != next || e.length == 0 || e.length > footer.index_offset - e.offset ||
        e.sealed > 1) {
      refuse(path, "has blobs that overlap, are misplaced or empty");
    }
    if (e.sealed == 1 && e.length > kMaxSealedBytes)
      refuse(path, "has a sealed blob that is too long");
    if (e.sealed == 1) sealed_bytes += e.length;
    if (sealed_bytes > kMaxAllSealedBytes) refuse(path, "has too many sealed bytes");
    next = e.offset + align_up(e.length, kBlobAlignment);
    PackedEntry entry;
    entry.offset = e.offset;
    entry.length = e.length;
    entry.crc32c = e.crc;
    entry.sealed = e.sealed == 1;
    std::copy(std::begin(e.source), std::end(e.source), entry.source.begin());
    entries.push_back(entry);
  }
  if (next != footer.index_offset) refuse(path, "has bytes outside of its blobs");
  return entries;
}

Sha256Digest seal_of(const MachineSecret& secret, const Header& header,
                     const Sha256Digest& sealed_blobs, const std::vector<IndexEntry>& index,
                     const Footer& footer) {
  HmacSha256 seal(secret);
  seal.update(&header, sizeof header);
  seal.update(sealed_blobs.data(), sealed_blobs.size());
  seal.update(index.data(), index.size() * sizeof(IndexEntry));
  seal.update(&footer, sizeof footer);
  return seal.digest();
}

// Opens the file a second time around the page cache. Some FUSE file systems refuse O_DIRECT or
// take the flag and return other bytes, so one read is compared. An invalid descriptor means: use
// the page cache.
UniqueFd open_direct(const std::string& path, int buffered,
                     const std::vector<PackedEntry>& entries) {
  if (entries.empty()) return UniqueFd();
  UniqueFd direct;
  try {
    direct = open_read(path, true);
  } catch (const Error&) {
    return UniqueFd();
  }
  const uint64_t bytes = std::min<uint64_t>(align_up(entries[0].length, kBlobAlignment), 1u << 16);
  AlignedBuffer expected(bytes), got(bytes);
  read_exactly(buffered, expected.data(), bytes, entries[0].offset, path);
  std::memset(got.data(), 0x5a, bytes);
  ssize_t count;
  do {
    count = ::pread(direct.get(), got.data(), bytes, static_cast<off_t>(entries[0].offset));
  } while (count < 0 && errno == EINTR);
  const bool same =
      count == static_cast<ssize_t>(bytes) && std::memcmp(expected.data(), got.data(), bytes) == 0;
  return same ? std::move(direct) : UniqueFd();
}

}  // namespace

PackedFileWriter::PackedFileWriter(const std::string& final_path, const std::string& key)
    : file_(final_path), key_(key), secret_(machine_secret()) {
  if (key.size() > kMaxKey) {
    throw Error(ErrorCode::kUsage, final_path, "the key is longer than 256 bytes");
  }
  const Header header = header_of(key);
  file_.write(&header, sizeof header);
}

uint64_t PackedFileWriter::append(const void* data, size_t length, const Sha256Digest& source,
                                  bool sealed) {
  if (length == 0) throw Error(ErrorCode::kUsage, file_.path(), "a blob must not be empty");
  if (sealed && length > kMaxSealedBytes)
    throw Error(ErrorCode::kUsage, file_.path(), "a sealed blob is at most 1 MiB long");
  if (sealed && length > kMaxAllSealedBytes - sealed_bytes_)
    throw Error(ErrorCode::kUsage, file_.path(), "all sealed blobs have at most 64 MiB");
  if (sealed) {
    sealed_.update(data, length);
    sealed_bytes_ += length;
  }
  PackedEntry entry;
  entry.offset = file_.position();
  entry.length = length;
  entry.crc32c = crc32c(data, length);
  entry.source = source;
  entry.sealed = sealed;
  file_.write(data, length);
  static constexpr char kZeros[kBlobAlignment] = {};
  file_.write(kZeros, align_up(length, kBlobAlignment) - length);
  entries_.push_back(entry);
  return entries_.size() - 1;
}

void PackedFileWriter::commit() {
  std::vector<IndexEntry> index(entries_.size());
  for (size_t i = 0; i < index.size(); ++i) {
    index[i].offset = entries_[i].offset;
    index[i].length = entries_[i].length;
    index[i].crc = entries_[i].crc32c;
    index[i].sealed = entries_[i].sealed ? 1 : 0;
    std::copy(entries_[i].source.begin(), entries_[i].source.end(), index[i].source);
  }
  const size_t index_bytes = index.size() * sizeof(IndexEntry);
  Footer footer{};
  footer.index_offset = file_.position();
  footer.entries = index.size();
  footer.index_crc = crc32c(index.data(), index_bytes);
  footer.crc = crc32c(&footer, offsetof(Footer, crc));
  std::copy(std::begin(kEnd), std::end(kEnd), footer.magic);
  const Sha256Digest seal = seal_of(secret_, header_of(key_), sealed_.digest(), index, footer);
  file_.write(index.data(), index_bytes);
  file_.write(seal.data(), seal.size());
  file_.write(&footer, sizeof footer);
  file_.commit();
}

PackedFile PackedFile::open(const std::string& path, const std::string& expected_key,
                            bool allow_direct, const CheckEntries& check) {
  PackedFile file;
  file.path_ = path;
  file.buffered_ = open_read(path);
  const int fd = file.buffered_.get();
  const uint64_t size = file_size(fd, path);
  if (size < sizeof(Header) + sizeof(Sha256Digest) + sizeof(Footer))
    refuse(path, "is too short for a packed file");
  const Header header = read_header(fd, path, expected_key);
  const Footer footer = read_footer(fd, size, path);
  const std::vector<IndexEntry> index = read_index(fd, footer, path);
  file.entries_ = check_index(index, footer, path);
  if (check) check(file.entries_);
  if (!expected_key.empty()) {
    Sha256Digest seal;
    read_exactly(fd, seal.data(), seal.size(), size - sizeof(Footer) - seal.size(), path);
    const auto secret = existing_machine_secret();
    if (!secret || seal != seal_of(*secret, header, file.sealed_blobs(), index, footer))
      refuse_foreign(path);
  }
  if (allow_direct) file.direct_ = open_direct(path, fd, file.entries_);
  return file;
}

Sha256Digest PackedFile::sealed_blobs() const {
  Sha256 all;
  for (size_t i = 0; i < entries_.size(); ++i) {
    if (!entries_[i].sealed) continue;
    const AlignedBuffer blob = read(i);
    all.update(blob.data(), blob.size());
  }
  return all.digest();
}

AlignedBuffer PackedFile::read(size_t index) const {
  const PackedEntry& entry = entries_.at(index);
  AlignedBuffer buffer(entry.length, path_);
  read_exactly(buffered_.get(), buffer.data(), entry.length, entry.offset, path_);
  if (crc32c(buffer.data(), entry.length) != entry.crc32c) {
    refuse(path_, "blob " + std::to_string(index) + " at offset " + std::to_string(entry.offset) +
                      " does not match its checksum");
  }
  return buffer;
}

MappedFile PackedFile::map(size_t index) const {
  const PackedEntry& entry = entries_.at(index);
  return MappedFile(buffered_.get(), entry.offset, entry.length, path_);
}

}  // namespace moe_mobile
