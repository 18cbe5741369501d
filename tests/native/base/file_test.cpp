// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "base/file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include <filesystem>
#include <limits>

#include "base/expect_error.h"
#include "base/temporary_folder.h"

namespace moe_mobile {
namespace {

using testing::read_file;
using testing::TemporaryFolder;
using testing::write_file;

TEST(OpenRead, RefusesEverythingButRegularFiles) {
  TemporaryFolder folder;
  write_file(folder.file("real"), "abc");
  std::filesystem::create_symlink(folder.file("real"), folder.file("link"));
  ASSERT_EQ(::mkfifo(folder.file("pipe").c_str(), 0600), 0);
  EXPECT_EQ(file_size(open_read(folder.file("real")).get(), "real"), 3u);
  EXPECT_ERROR(open_read(folder.file("link")), ErrorCode::kBundleInvalid, "symbolic link");
  EXPECT_ERROR(open_read(folder.file("pipe")), ErrorCode::kBundleInvalid, "not a regular file");
  EXPECT_ERROR(open_read(folder.path()), ErrorCode::kBundleInvalid, "not a regular file");
  EXPECT_ERROR(open_read("/dev/zero"), ErrorCode::kBundleInvalid, "not a regular file");
  EXPECT_ERROR(open_read(folder.file("none")), ErrorCode::kIo, folder.file("none"));
  EXPECT_ERROR(open_read(folder.file("real") + std::string(1, '\0') + "x"),
               ErrorCode::kBundleInvalid, "NUL");
}

TEST(ReadExactly, ReportsWhereAFileEnds) {
  TemporaryFolder folder;
  write_file(folder.file("f"), "0123456789");
  const UniqueFd fd = open_read(folder.file("f"));
  char buffer[8] = {};
  read_exactly(fd.get(), buffer, 4, 6, "f");
  EXPECT_EQ(std::string(buffer, 4), "6789");
  EXPECT_ERROR(read_exactly(fd.get(), buffer, 5, 6, "f"), ErrorCode::kBundleCorrupt,
               "ends at byte 10, but 1 more bytes were expected");
  EXPECT_ERROR(read_exactly(fd.get(), buffer, 5, std::numeric_limits<uint64_t>::max() - 1, "f"),
               ErrorCode::kBundleInvalid, "offset");
}

TEST(ReadText, IsBounded) {
  TemporaryFolder folder;
  write_file(folder.file("f"), "0123456789");
  EXPECT_EQ(read_text(folder.file("f"), 10), "0123456789");
  EXPECT_ERROR(read_text(folder.file("f"), 9), ErrorCode::kBundleInvalid, "10 bytes long");
}

TEST(AtomicFile, AppearsWholeOrNotAtAll) {
  TemporaryFolder folder;
  const std::string path = folder.file("out");
  write_file(path, "old");
  {
    AtomicFile file(path);
    file.write("lost", 4);
    EXPECT_EQ(read_file(path), "old");
  }
  EXPECT_EQ(read_file(path), "old");
  EXPECT_EQ(folder.entries(), 1u);
  {
    AtomicFile file(path);
    file.write("--cdef", 6);
    file.pwrite("ab", 2, 0);
    EXPECT_EQ(file.position(), 6u);
    file.commit();
  }
  EXPECT_EQ(read_file(path), "abcdef");
  EXPECT_EQ(folder.entries(), 1u);
}

TEST(AtomicFile, OverwritesTheFileOfAKilledProcess) {
  TemporaryFolder folder;
  write_file(folder.file("out.partial"), "a long rest of an earlier run");
  AtomicFile file(folder.file("out"));
  file.write("new", 3);
  file.commit();
  EXPECT_EQ(read_file(folder.file("out")), "new");
  EXPECT_EQ(folder.entries(), 1u);
}

// An archive may bring the temporary name as a hard link to a file that matters.
TEST(AtomicFile, LeavesTheOtherNameOfALeftoverAlone) {
  TemporaryFolder folder;
  write_file(folder.file("precious"), "the only copy");
  std::filesystem::create_hard_link(folder.file("precious"), folder.file("out.partial"));
  {
    AtomicFile file(folder.file("out"));
    file.write("new", 3);
    EXPECT_EQ(read_file(folder.file("precious")), "the only copy");
    file.commit();
  }
  EXPECT_EQ(read_file(folder.file("out")), "new");
  EXPECT_EQ(read_file(folder.file("precious")), "the only copy");
  EXPECT_EQ(folder.entries(), 2u);
}

TEST(AtomicFile, DoesNotFollowALink) {
  TemporaryFolder folder;
  write_file(folder.file("precious"), "the only copy");
  std::filesystem::create_symlink(folder.file("precious"), folder.file("out.partial"));
  EXPECT_ERROR(AtomicFile(folder.file("out")), ErrorCode::kUsage, "links are not followed");
  EXPECT_EQ(read_file(folder.file("precious")), "the only copy");
}

TEST(AtomicFile, RefusesASecondWriter) {
  TemporaryFolder folder;
  AtomicFile first(folder.file("out"));
  first.write("x", 1);
  EXPECT_ERROR(AtomicFile(folder.file("out")), ErrorCode::kIo, "another process");
  first.commit();
  EXPECT_EQ(read_file(folder.file("out")), "x");
}

TEST(AtomicFile, SaysThatATemporaryNameIsTheSecondOfAFileInUse) {
  TemporaryFolder folder;
  AtomicFile first(folder.file("first"));
  std::filesystem::create_hard_link(folder.file("first.partial"), folder.file("out.partial"));
  EXPECT_ERROR(AtomicFile(folder.file("out")), ErrorCode::kIo, "second name");
}

TEST(AtomicFile, MovesWithItsTemporaryFile) {
  TemporaryFolder folder;
  {
    AtomicFile first(folder.file("out"));
    first.write("ab", 2);
    AtomicFile second(std::move(first));
    second.write("c", 1);
    second.commit();
  }
  EXPECT_EQ(read_file(folder.file("out")), "abc");
}

TEST(AtomicFile, NamesAMissingFolder) {
  TemporaryFolder folder;
  EXPECT_ERROR(AtomicFile(folder.file("none/out")), ErrorCode::kIo, "none/out");
}

// A small file system of its own, for full and read-only disks. Needs the right to mount.
class Mount {
 public:
  explicit Mount(const std::string& path) : path_(path) {
    mounted_ = ::mount("tmpfs", path.c_str(), "tmpfs", 0, "size=64k") == 0;
  }
  ~Mount() {
    if (mounted_) ::umount(path_.c_str());
  }
  bool mounted() const { return mounted_; }
  bool make_read_only() const {
    return ::mount("tmpfs", path_.c_str(), "tmpfs", MS_REMOUNT | MS_RDONLY, nullptr) == 0;
  }

 private:
  std::string path_;
  bool mounted_ = false;
};

TEST(AtomicFile, ReportsFullAndReadOnlyDisks) {
  TemporaryFolder folder;
  Mount mount(folder.path());
  if (!mount.mounted()) GTEST_SKIP() << "may not mount here";
  {
    AtomicFile file(folder.file("out"));
    const std::string big(1 << 20, 'x');
    EXPECT_ERROR(file.write(big.data(), big.size()), ErrorCode::kDiskFull, "out.partial");
  }
  EXPECT_EQ(folder.entries(), 0u);
  ASSERT_TRUE(mount.make_read_only());
  EXPECT_ERROR(AtomicFile(folder.file("out")), ErrorCode::kReadOnly, "out");
}

TEST(AlignedBuffer, IsAlignedAndMoves) {
  AlignedBuffer buffer(5);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % kBlobAlignment, 0u);
  EXPECT_EQ(buffer.size(), 5u);
  EXPECT_EQ(buffer.capacity(), kBlobAlignment);
  buffer.data()[kBlobAlignment - 1] = 7;
  AlignedBuffer other(std::move(buffer));
  EXPECT_EQ(other.data()[kBlobAlignment - 1], 7);
  EXPECT_EQ(AlignedBuffer().capacity(), 0u);
  constexpr size_t kMost = std::numeric_limits<size_t>::max();
  EXPECT_ERROR(AlignedBuffer(kMost), ErrorCode::kBudget, "memory");
  EXPECT_ERROR(AlignedBuffer(kMost, "dense/head.pte"), ErrorCode::kBudget, "dense/head.pte");
}

TEST(UniqueFd, ClosesOnce) {
  UniqueFd fd(::open("/dev/null", O_RDONLY));
  const int raw = fd.get();
  UniqueFd other(std::move(fd));
  EXPECT_FALSE(fd.valid());
  EXPECT_EQ(other.get(), raw);
  other.reset();
  EXPECT_EQ(::fcntl(raw, F_GETFD), -1);
}

}  // namespace
}  // namespace moe_mobile
