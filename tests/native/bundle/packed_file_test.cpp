// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "bundle/packed_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <random>

#include "base/crc32c.h"
#include "base/expect_error.h"
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

void write_sample(const std::string& path, size_t blobs) {
  PackedFileWriter writer(path, "key");
  for (size_t i = 0; i < blobs; ++i) {
    const std::string bytes = blob(i);
    EXPECT_EQ(writer.append(bytes.data(), bytes.size(), source_of(i)), i);
  }
  writer.commit();
}

TEST(PackedFile, ReadsBackWhatWasWritten) {
  TemporaryFolder folder;
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

TEST(PackedFile, EqualInputsGiveEqualBytesAndNothingEarly) {
  TemporaryFolder folder;
  write_sample(folder.file("a"), 3);
  write_sample(folder.file("b"), 3);
  EXPECT_EQ(read_file(folder.file("a")), read_file(folder.file("b")));
  {
    PackedFileWriter writer(folder.file("c"), "key");
    writer.append("x", 1, source_of(0));
  }
  EXPECT_EQ(folder.entries(), 2u);
  EXPECT_ERROR(PackedFile::open(folder.file("c"), "key"), ErrorCode::kIo, "c");
}

TEST(PackedFile, MayBeEmpty) {
  TemporaryFolder folder;
  write_sample(folder.file("f"), 0);
  EXPECT_TRUE(PackedFile::open(folder.file("f"), "key").entries().empty());
}

TEST(PackedFile, WriterRefusesWhatTheFormatCannotHold) {
  TemporaryFolder folder;
  EXPECT_ERROR(PackedFileWriter(folder.file("f"), std::string(257, 'k')), ErrorCode::kUsage, "key");
  PackedFileWriter writer(folder.file("f"), std::string(256, 'k'));
  EXPECT_ERROR(writer.append("x", 0, source_of(0)), ErrorCode::kUsage, "empty");
}

TEST(PackedFile, DetectsAnotherKey) {
  TemporaryFolder folder;
  write_sample(folder.file("f"), 1);
  EXPECT_ERROR(PackedFile::open(folder.file("f"), "other"), ErrorCode::kBundleCorrupt,
               "packed for \"key\"");
  EXPECT_ERROR(PackedFile::open(folder.file("f"), "key2"), ErrorCode::kBundleCorrupt, "prepare");
}

TEST(PackedFile, DetectsEveryTruncation) {
  TemporaryFolder folder;
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

TEST(PackedFile, DetectsEveryFlippedBitOnOpeningOrReading) {
  TemporaryFolder folder;
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
TEST(PackedFile, ChecksTheIndexBeyondItsChecksum) {
  TemporaryFolder folder;
  const std::string path = folder.file("f");
  write_sample(path, 3);
  const std::string good = read_file(path);
  const size_t footer = good.size() - 32, index = footer - 3 * 56;
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

}  // namespace
}  // namespace moe_mobile
