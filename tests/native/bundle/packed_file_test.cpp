// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "bundle/packed_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <random>

#include "base/crc32c.h"
#include "base/expect_error.h"
#include "base/machine_secret.h"
#include "base/temporary_folder.h"

namespace moe_mobile {
namespace {

using testing::read_file;
using testing::TemporaryFolder;
using testing::write_file;

Sha256Digest source_of(size_t i) { return sha256(&i, sizeof i); }

std::string blob(size_t i) {
  std::mt19937 random(static_cast<unsigned>(i));
  std::string bytes(1 + random() % 60000, '\0');
  for (char& c : bytes) c = static_cast<char>(random());
  return bytes;
}

// Every third blob is sealed.
void write_sample(const std::string& path, size_t blobs) {
  PackedFileWriter writer(path, "key");
  for (size_t i = 0; i < blobs; ++i) {
    const std::string bytes = blob(i);
    EXPECT_EQ(writer.append(bytes.data(), bytes.size(), source_of(i), i % 3 == 2), i);
  }
  writer.commit();
}

class PackedFileTest : public ::testing::Test {
 protected:
  PackedFileTest() { set_state_directory(folder.file("state")); }
  TemporaryFolder folder;
};

TEST_F(PackedFileTest, ReadsBackWhatWasWritten) {
  const std::string path = folder.file("layer-00.packed");
  write_sample(path, 9);
  for (const bool allow_direct : {true, false}) {
    const PackedFile file = PackedFile::open(path, "key", allow_direct);
    if (!allow_direct) {
      EXPECT_FALSE(file.direct());
    }
    ASSERT_EQ(file.entries().size(), 9u);
    for (size_t i = 0; i < 9; ++i) {
      const PackedEntry& entry = file.entries()[i];
      const std::string expected = blob(i);
      ASSERT_EQ(entry.length, expected.size());
      EXPECT_EQ(entry.offset % kBlobAlignment, 0u);
      EXPECT_EQ(entry.source, source_of(i));
      EXPECT_EQ(entry.crc32c, crc32c(expected.data(), expected.size()));
      const AlignedBuffer bytes = file.read(i);
      EXPECT_EQ(std::memcmp(bytes.data(), expected.data(), expected.size()), 0);
      // Read as the lanes do: aligned, padded, through fd().
      AlignedBuffer padded(align_up(entry.length, kBlobAlignment));
      ASSERT_EQ(::pread(file.fd(), padded.data(), padded.size(), static_cast<off_t>(entry.offset)),
                static_cast<ssize_t>(padded.size()));
      EXPECT_EQ(std::memcmp(padded.data(), expected.data(), expected.size()), 0);
      for (size_t j = entry.length; j < padded.size(); ++j) ASSERT_EQ(padded.data()[j], 0);
    }
  }
}

TEST_F(PackedFileTest, EqualInputsGiveEqualBytesAndNothingEarly) {
  write_sample(folder.file("a"), 3);
  write_sample(folder.file("b"), 3);
  EXPECT_EQ(read_file(folder.file("a")), read_file(folder.file("b")));
  {
    PackedFileWriter writer(folder.file("c"), "key");
    writer.append("x", 1, source_of(0));
  }
  EXPECT_EQ(folder.entries(), 3u);  // and the state
  EXPECT_ERROR(PackedFile::open(folder.file("c"), "key"), ErrorCode::kIo, "c");
}

TEST_F(PackedFileTest, MayBeEmpty) {
  write_sample(folder.file("f"), 0);
  EXPECT_TRUE(PackedFile::open(folder.file("f"), "key").entries().empty());
}

TEST_F(PackedFileTest, WriterRefusesWhatTheFormatCannotHold) {
  EXPECT_ERROR(PackedFileWriter(folder.file("f"), std::string(257, 'k')), ErrorCode::kUsage, "key");
  PackedFileWriter writer(folder.file("f"), std::string(256, 'k'));
  EXPECT_ERROR(writer.append("x", 0, source_of(0)), ErrorCode::kUsage, "empty");
  const std::string long_blob(kMaxSealedBytes + 1, 'x');
  EXPECT_ERROR(writer.append(long_blob.data(), long_blob.size(), source_of(0), true),
               ErrorCode::kUsage, "1 MiB");
}

TEST_F(PackedFileTest, DetectsAnotherKey) {
  write_sample(folder.file("f"), 1);
  EXPECT_ERROR(PackedFile::open(folder.file("f"), "other"), ErrorCode::kBundleCorrupt,
               "packed for \"key\"");
  EXPECT_ERROR(PackedFile::open(folder.file("f"), "key2"), ErrorCode::kBundleCorrupt, "prepare");
}

TEST_F(PackedFileTest, DetectsEveryTruncation) {
  const std::string path = folder.file("f");
  write_sample(path, 3);
  const std::string bytes = read_file(path);
  std::mt19937 random(5);
  for (int round = 0; round < 80; ++round) {
    const size_t length = round < 40 ? bytes.size() - 1 - round : random() % bytes.size();
    write_file(path, bytes.substr(0, length));
    EXPECT_ERROR(PackedFile::open(path, "key"), ErrorCode::kBundleCorrupt, path);
  }
  write_file(path, bytes + std::string(16384, '\0'));
  EXPECT_ERROR(PackedFile::open(path, "key"), ErrorCode::kBundleCorrupt, path);
}

TEST_F(PackedFileTest, DetectsEveryFlippedBitOnOpeningOrReading) {
  const std::string path = folder.file("f");
  write_sample(path, 3);
  const std::string good = read_file(path);
  const auto entries = PackedFile::open(path, "key").entries();
  const auto is_padding = [&](size_t at) {
    for (const PackedEntry& e : entries) {
      if (at >= e.offset + e.length && at < e.offset + align_up(e.length, kBlobAlignment)) {
        return true;
      }
    }
    return false;
  };
  std::mt19937 random(6);
  for (int round = 0; round < 160; ++round) {
    size_t at = random() % good.size();
    if (round % 4 == 0) at = good.size() - 1 - random() % 300;  // index and footer
    if (round % 4 == 1) at = random() % 300;
    if (is_padding(at)) continue;
    std::string bytes = good;
    bytes[at] = static_cast<char>(bytes[at] ^ (1 << random() % 8));
    write_file(path, bytes);
    const Error error = testing::error_of([&] {
      const PackedFile file = PackedFile::open(path, "key");
      for (size_t i = 0; i < file.entries().size(); ++i) file.read(i);
    });
    EXPECT_EQ(error.code(), ErrorCode::kBundleCorrupt) << at;
    EXPECT_EQ(error.file(), path);
    EXPECT_TRUE(testing::contains(error.remedy(), "moe-mobile prepare"));
  }
}

// A file with valid checksums is trusted for its weights, but it must not make us read outside the
// file.
TEST_F(PackedFileTest, ChecksTheIndexBeyondItsChecksum) {
  const std::string path = folder.file("f");
  write_sample(path, 3);
  const std::string good = read_file(path);
  const size_t footer = good.size() - 32, index = footer - 32 - 3 * 56;
  const auto with = [&](size_t at, uint64_t value) {
    std::string bytes = good;
    std::memcpy(&bytes[at], &value, 8);
    const uint32_t index_crc = crc32c(&bytes[index], 3 * 56);
    if (at < footer) std::memcpy(&bytes[footer + 16], &index_crc, 4);
    const uint32_t crc = crc32c(&bytes[footer], 24);
    std::memcpy(&bytes[footer + 24], &crc, 4);
    write_file(path, bytes);
  };
  with(index, 16384);  // unchanged
  PackedFile::open(path, "key");
  for (const uint64_t value : {uint64_t{0}, uint64_t{16385}, uint64_t{32768}, ~uint64_t{0}}) {
    with(index, value);
    EXPECT_ERROR(PackedFile::open(path, "key"), ErrorCode::kBundleCorrupt, "overlap");
  }
  for (const uint64_t value : {uint64_t{0}, uint64_t{1} << 40, ~uint64_t{0}}) {
    with(index + 8, value);
    EXPECT_ERROR(PackedFile::open(path, "key"), ErrorCode::kBundleCorrupt, "overlap");
  }
  for (const uint64_t value : {uint64_t{0}, uint64_t{2}, uint64_t{4}, ~uint64_t{0}}) {
    with(footer + 8, value);
    EXPECT_ERROR(PackedFile::open(path, "key"), ErrorCode::kBundleCorrupt, "does not fit");
  }
  for (const uint64_t value : {uint64_t{0}, uint64_t{16384}, uint64_t{1}, ~uint64_t{0}}) {
    with(footer, value);
    EXPECT_ERROR(PackedFile::open(path, "key"), ErrorCode::kBundleCorrupt, "does not fit");
  }
}

// What a forger can do: the file with other bytes in it, and every checksum right again.
class Forged {
 public:
  explicit Forged(std::string bytes) : bytes_(std::move(bytes)) {
    std::memcpy(&index_, &bytes_[bytes_.size() - 32], 8);
    std::memcpy(&blobs_, &bytes_[bytes_.size() - 24], 8);
  }
  size_t blobs() const { return blobs_; }
  // Where a blob begins, and its length.
  std::pair<uint64_t, uint64_t> place(size_t blob) const {
    std::pair<uint64_t, uint64_t> at;
    std::memcpy(&at.first, &bytes_[index_ + 56 * blob], 8);
    std::memcpy(&at.second, &bytes_[index_ + 56 * blob + 8], 8);
    return at;
  }
  char& at(size_t offset) { return bytes_[offset]; }
  char& entry(size_t blob, size_t offset) { return bytes_[index_ + 56 * blob + offset]; }
  std::string with_right_checksums() {
    for (size_t blob = 0; blob < blobs_; ++blob) {
      const auto [offset, length] = place(blob);
      if (offset > index_ || length > index_ - offset) continue;
      put(index_ + 56 * blob + 16, crc32c(&bytes_[offset], length));
    }
    put(16380, crc32c(bytes_.data(), 16380));
    put(bytes_.size() - 16, crc32c(&bytes_[index_], 56 * blobs_));
    put(bytes_.size() - 8, crc32c(&bytes_[bytes_.size() - 32], 24));
    return bytes_;
  }

 private:
  void put(size_t at, uint32_t value) { std::memcpy(&bytes_[at], &value, 4); }
  std::string bytes_;
  uint64_t index_ = 0, blobs_ = 0;
};

TEST_F(PackedFileTest, IsNotBelievedAfterAnyChangeThatHasRightChecksums) {
  const std::string path = folder.file("f");
  write_sample(path, 6);
  const std::string good = read_file(path);
  std::mt19937 random(7);
  int refused = 0;
  for (int round = 0; round < 600; ++round) {
    Forged forged(good);
    const size_t blob = random() % forged.blobs();
    const auto [offset, length] = forged.place(blob);
    const auto flip = static_cast<char>(1 << random() % 8);
    switch (round % 4) {
      case 0:  // weights, indexes
        forged.at(offset + random() % length) ^= flip;
        break;
      case 1:  // lengths, sources, whether it is sealed
        forged.entry(blob, random() % 56) ^= flip;
        break;
      case 2:  // the key
        forged.at(16 + random() % 3) ^= flip;
        break;
      default:  // one blob in place of another
        for (size_t i = 0; i < 56; ++i)
          std::swap(forged.entry(blob, i), forged.entry((blob + 1) % forged.blobs(), i));
    }
    const std::string bytes = forged.with_right_checksums();
    if (bytes == good) continue;  // a flipped checksum, which was put right
    write_file(path, bytes);
    const Error error = testing::error_of([&] { PackedFile::open(path, "key"); });
    EXPECT_EQ(error.code(), ErrorCode::kBundleCorrupt);
    EXPECT_TRUE(testing::contains(error.remedy(), "moe-mobile prepare"));
    ++refused;
  }
  EXPECT_GT(refused, 550);
}

// A checksum can be kept by changing four more bytes; the seal cannot.
TEST_F(PackedFileTest, SealedBlobsAreMoreThanTheirChecksum) {
  const std::string path = folder.file("f");
  write_sample(path, 3);
  Forged forged(read_file(path));
  const auto [offset, length] = forged.place(2);
  // CRCs are linear: this pattern, anywhere in a message, changes nothing.
  const uint32_t polynomial = 0x82f63b78;
  uint64_t pattern = (uint64_t{polynomial} << 1) | 1;
  for (size_t i = 0; i < 5; ++i)
    forged.at(offset + i) ^= static_cast<char>(pattern >> (8 * i) & 0xff);
  const std::string same = read_file(path);
  const std::string bytes = forged.with_right_checksums();
  ASSERT_NE(bytes, same);
  ASSERT_EQ(bytes.substr(bytes.size() - 64), same.substr(same.size() - 64)) << "not a collision";
  write_file(path, bytes);
  EXPECT_ERROR(PackedFile::open(path, "key"), ErrorCode::kBundleCorrupt,
               "not made on this machine");
}

TEST_F(PackedFileTest, IsCheckedBeforeItsSealedBlobsAreRead) {
  const std::string path = folder.file("f");
  write_sample(path, 6);
  std::string bytes = read_file(path);
  bytes[Forged(bytes).place(2).first] ^= 1;  // of a sealed blob, whose checksum is now wrong
  write_file(path, bytes);
  EXPECT_ERROR(PackedFile::open(path, "key"), ErrorCode::kBundleCorrupt, "blob 2");
  const auto check = [&](const std::vector<PackedEntry>& entries) {
    EXPECT_EQ(entries.size(), 6u);
    throw Error(ErrorCode::kBundleCorrupt, path, "is not what was asked for");
  };
  EXPECT_ERROR(PackedFile::open(path, "key", true, check), ErrorCode::kBundleCorrupt, "asked for");
}

// A file of holes takes no space, but reading its blobs takes long.
TEST_F(PackedFileTest, HasABoundedNumberOfSealedBytes) {
  const std::string path = folder.file("f");
  const std::string zeros(kMaxSealedBytes, '\0');
  size_t blobs = 0;
  {
    PackedFileWriter writer(path, "key");
    for (; blobs < kMaxAllSealedBytes / kMaxSealedBytes; ++blobs)
      writer.append(zeros.data(), zeros.size(), source_of(0), true);
    EXPECT_ERROR(writer.append("x", 1, source_of(0), true), ErrorCode::kUsage, "64 MiB");
    writer.append("x", 1, source_of(0), false);
    writer.commit();
  }
  EXPECT_EQ(PackedFile::open(path, "key").entries().size(), blobs + 1);
  Forged forged(read_file(path));
  forged.entry(blobs, 20) = 1;  // sealed too
  write_file(path, forged.with_right_checksums());
  EXPECT_ERROR(PackedFile::open(path, "key"), ErrorCode::kBundleCorrupt, "too many sealed bytes");
}

TEST_F(PackedFileTest, OfAnotherMachineIsNotUsed) {
  const std::string path = folder.file("f");
  write_sample(path, 3);
  for (const char* other : {"other", ""}) {  // "": no secret, nothing was ever made here
    set_state_directory(*other == '\0' ? "" : folder.file(other));
    if (*other != '\0') machine_secret();
    const Error error = testing::error_of([&] { PackedFile::open(path, "key"); });
    EXPECT_EQ(error.code(), ErrorCode::kBundleCorrupt);
    EXPECT_TRUE(testing::contains(error.what(), "not made on this machine")) << error.what();
    EXPECT_TRUE(
        testing::contains(error.remedy(), *other == '\0' ? "no folder" : folder.file(other)));
    EXPECT_FALSE(testing::contains(error.remedy(), "elete"))
        << error.remedy();  // the only copy, maybe
    EXPECT_EQ(PackedFile::open(path, kAnyPackedKey).entries().size(), 3u);
  }
  set_state_directory(folder.file("state"));
  EXPECT_EQ(PackedFile::open(path, "key").entries().size(), 3u);
}

}  // namespace
}  // namespace moe_mobile
