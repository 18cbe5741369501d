// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "base/machine_secret.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <thread>
#include <vector>

#include "base/expect_error.h"
#include "base/temporary_folder.h"

namespace moe_mobile {
namespace {

using testing::read_file;
using testing::TemporaryFolder;
using testing::write_file;

void write_secret(const TemporaryFolder& folder, const std::string& bytes, unsigned mode) {
  const std::string path = folder.file("machine.secret");
  write_file(path, bytes);
  ASSERT_EQ(chmod(path.c_str(), mode), 0);
}

TEST(MachineSecret, IsMadeOnceAndStays) {
  TemporaryFolder folder;
  const std::string directory = folder.file("a/b");
  set_state_directory(directory);
  EXPECT_FALSE(existing_machine_secret());
  std::vector<MachineSecret> secrets(8);
  std::vector<std::thread> threads;
  for (MachineSecret& secret : secrets) threads.emplace_back([&] { secret = machine_secret(); });
  for (std::thread& thread : threads) thread.join();
  for (const MachineSecret& secret : secrets) EXPECT_EQ(secret, secrets[0]);
  EXPECT_EQ(existing_machine_secret(), secrets[0]);
  EXPECT_NE(secrets[0], MachineSecret{});
  struct stat status{};
  ASSERT_EQ(stat((directory + "/machine.secret").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);

  set_state_directory(folder.file("other"));
  EXPECT_NE(machine_secret(), secrets[0]);
}

TEST(MachineSecret, IsMadeAnewIfAKilledProcessLeftHalfOfIt) {
  TemporaryFolder folder;
  set_state_directory(folder.path());
  for (const std::string& left : {std::string(), std::string(31, 'x')}) {
    write_secret(folder, left, 0600);
    EXPECT_FALSE(existing_machine_secret());
    const MachineSecret secret = machine_secret();
    EXPECT_EQ(existing_machine_secret(), secret);
    EXPECT_EQ(read_file(folder.file("machine.secret")).size(), 32u);
  }
}

TEST(MachineSecret, RefusesAnotherFile) {
  TemporaryFolder folder;
  set_state_directory(folder.path());
  write_secret(folder, std::string(33, 'x'), 0600);
  EXPECT_ERROR(machine_secret(), ErrorCode::kIo, "not the secret");
  set_state_directory("");
  EXPECT_ERROR(machine_secret(), ErrorCode::kUsage, "MOE_MOBILE_STATE_DIR");
  EXPECT_FALSE(existing_machine_secret());
}

TEST(MachineSecret, SaysWhatAFolderThatCannotBeMadeIsFor) {
  set_state_directory("/proc/nope/.local");
  EXPECT_ERROR(machine_secret(), ErrorCode::kIo, "knows its packed weights");
  EXPECT_ERROR(machine_secret(), ErrorCode::kIo, "MOE_MOBILE_STATE_DIR");
}

TEST(MachineSecret, RefusesOneThatOthersMayReadOrWrite) {
  TemporaryFolder folder;
  set_state_directory(folder.path());
  // An empty one too: others would keep the file open and read what is written.
  for (const size_t size : {size_t{0}, sizeof(MachineSecret)})
    for (const unsigned mode : {0666u, 0620u, 0602u, 0640u, 0604u}) {
      write_secret(folder, std::string(size, '\0'), mode);
      EXPECT_ERROR(machine_secret(), ErrorCode::kIo, "other users may read or write");
      EXPECT_ERROR(existing_machine_secret(), ErrorCode::kIo, "Delete it");
    }
  write_secret(folder, std::string(sizeof(MachineSecret), 'x'), 0400);
  EXPECT_TRUE(existing_machine_secret());
}

TEST(MachineSecret, RefusesOneOfAnotherUser) {
  if (geteuid() != 0) GTEST_SKIP() << "only root may give files away";
  TemporaryFolder folder;
  set_state_directory(folder.path());
  const std::string path = folder.file("machine.secret");
  write_secret(folder, std::string(sizeof(MachineSecret), 'x'), 0600);
  ASSERT_EQ(chown(path.c_str(), 12345, 12345), 0);
  EXPECT_ERROR(machine_secret(), ErrorCode::kIo, "belongs to user 12345");
  EXPECT_ERROR(existing_machine_secret(), ErrorCode::kIo, path);
}

}  // namespace
}  // namespace moe_mobile
