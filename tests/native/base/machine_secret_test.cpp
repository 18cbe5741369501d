// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "base/machine_secret.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <thread>
#include <vector>

#include "base/expect_error.h"
#include "base/temporary_folder.h"

namespace moe_mobile {
namespace {

using testing::read_file;
using testing::TemporaryFolder;
using testing::write_file;

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
    write_file(folder.file("machine.secret"), left);
    EXPECT_FALSE(existing_machine_secret());
    const MachineSecret secret = machine_secret();
    EXPECT_EQ(existing_machine_secret(), secret);
    EXPECT_EQ(read_file(folder.file("machine.secret")).size(), 32u);
  }
}

TEST(MachineSecret, RefusesAnotherFile) {
  TemporaryFolder folder;
  set_state_directory(folder.path());
  write_file(folder.file("machine.secret"), std::string(33, 'x'));
  EXPECT_ERROR(machine_secret(), ErrorCode::kIo, "not the secret");
  set_state_directory("");
  EXPECT_ERROR(machine_secret(), ErrorCode::kUsage, "MOE_MOBILE_STATE_DIR");
  EXPECT_FALSE(existing_machine_secret());
}

}  // namespace
}  // namespace moe_mobile
