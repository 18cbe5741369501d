// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "base/error.h"

#include <gtest/gtest.h>

#include <cerrno>

#include "base/expect_error.h"

namespace moe_mobile {
namespace {

TEST(Error, SaysFileCauseAndRemedy) {
  const Error error(ErrorCode::kIo, "a.bin", "cannot read", "Look at the disk");
  EXPECT_STREQ(error.what(), "a.bin: cannot read. Look at the disk");
  EXPECT_EQ(error.file(), "a.bin");
  EXPECT_EQ(error.cause(), "cannot read");
  EXPECT_EQ(error.remedy(), "Look at the disk");
  EXPECT_STREQ(Error(ErrorCode::kIo, "a.bin", "is bad").what(), "a.bin: is bad");
}

TEST(Error, DistinguishesSettingsFromFiles) {
  const Error error(ErrorCode::kBudget, Setting{"cache"}, "too small", "Raise it");
  EXPECT_STREQ(error.what(), "cache: too small. Raise it");
  EXPECT_EQ(error.setting(), "cache");
  EXPECT_EQ(error.file(), "");
  EXPECT_EQ(Error(ErrorCode::kIo, "a.bin", "is bad").setting(), "");
}

TEST(Error, HasTheSharedNamesAndExitCodes) {
  const struct {
    ErrorCode code;
    const char* name;
    int exit;
  } rows[] = {
      {ErrorCode::kUsage, "usage", 2},
      {ErrorCode::kUnsupported, "unsupported", 3},
      {ErrorCode::kBundleInvalid, "bundle_invalid", 4},
      {ErrorCode::kBundleCorrupt, "bundle_corrupt", 5},
      {ErrorCode::kIo, "io", 6},
      {ErrorCode::kDiskFull, "disk_full", 7},
      {ErrorCode::kReadOnly, "read_only", 8},
      {ErrorCode::kBudget, "budget", 9},
      {ErrorCode::kRuntime, "runtime", 10},
      {ErrorCode::kCancelled, "cancelled", 130},
  };
  for (const auto& row : rows) {
    EXPECT_STREQ(to_string(row.code), row.name);
    EXPECT_EQ(exit_code(row.code), row.exit);
  }
}

TEST(Error, MapsErrnoByWhatWasDone) {
  const struct {
    int error;
    const char* action;
    ErrorCode code;
  } rows[] = {
      {ENOSPC, "write", ErrorCode::kDiskFull}, {EDQUOT, "create", ErrorCode::kDiskFull},
      {EROFS, "create", ErrorCode::kReadOnly}, {EACCES, "rename", ErrorCode::kReadOnly},
      {EPERM, "sync", ErrorCode::kReadOnly},   {EACCES, "open", ErrorCode::kIo},
      {EIO, "write", ErrorCode::kIo},          {ENOENT, "open", ErrorCode::kIo},
  };
  for (const auto& row : rows) {
    const Error error = testing::error_of([&] {
      errno = row.error;
      throw_errno("x", row.action);
    });
    EXPECT_STREQ(to_string(error.code()), to_string(row.code)) << row.action << row.error;
    EXPECT_EQ(error.file(), "x");
    EXPECT_FALSE(error.remedy().empty());
  }
}

}  // namespace
}  // namespace moe_mobile
