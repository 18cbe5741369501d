// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "base/file_lock.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>

#include "base/expect_error.h"
#include "base/file.h"
#include "base/temporary_folder.h"

namespace moe_mobile {
namespace {

using testing::TemporaryFolder;

UniqueFd opened(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT, 0600));
  EXPECT_TRUE(fd.valid());
  return fd;
}

TEST(FileLock, IsTakenIfNobodyHasIt) {
  TemporaryFolder folder;
  const std::string path = folder.file("lock");
  const UniqueFd mine = opened(path), other = opened(path);
  EXPECT_TRUE(lock_file(mine.get(), path, std::chrono::milliseconds(0)));
  EXPECT_NE(flock(other.get(), LOCK_EX | LOCK_NB), 0);
}

TEST(FileLock, IsWaitedForUntilThePatienceEnds) {
  TemporaryFolder folder;
  const std::string path = folder.file("lock");
  const UniqueFd mine = opened(path), other = opened(path);
  ASSERT_TRUE(lock_file(other.get(), path, std::chrono::milliseconds(0)));
  std::chrono::milliseconds last{-1};
  EXPECT_FALSE(lock_file(mine.get(), path, std::chrono::milliseconds(10), [&](auto waited) {
    EXPECT_GT(waited, last);
    last = waited;
  }));
  EXPECT_LT(last, std::chrono::milliseconds(10));
  EXPECT_GE(last, std::chrono::milliseconds(0));
}

TEST(FileLock, ComesWhenTheOtherLetsGo) {
  TemporaryFolder folder;
  const std::string path = folder.file("lock");
  const UniqueFd mine = opened(path), other = opened(path);
  ASSERT_TRUE(lock_file(other.get(), path, std::chrono::milliseconds(0)));
  EXPECT_TRUE(lock_file(mine.get(), path, std::chrono::minutes(1),
                        [&](auto) { flock(other.get(), LOCK_UN); }));
}

TEST(FileLock, NeedsAnOpenFile) {
  EXPECT_ERROR((void)lock_file(-1, "no-file", std::chrono::milliseconds(0)), ErrorCode::kIo,
               "lock");
}

}  // namespace
}  // namespace moe_mobile
