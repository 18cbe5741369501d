// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "base/machine_secret.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "base/file_lock.h"
#include "base/mutex.h"

namespace moe_mobile {
namespace {

constexpr char kFileName[] = "machine.secret";
constexpr char kPurpose[] = "the secret by which this machine knows its packed weights";
constexpr char kOtherFolder[] =
    "Set the variable MOE_MOBILE_STATE_DIR, or HOME, to a folder that can be written and is kept.";

Mutex& directory_mutex() {
  static Mutex& mutex = *new Mutex;
  return mutex;
}

std::string& directory_of_process() {
  static std::string& directory = *new std::string;
  return directory;
}

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

[[noreturn]] void refuse(const std::string& path) {
  throw Error(
      ErrorCode::kIo, path, "is not the secret of this machine that moe-mobile made there",
      "Delete it: a new one is made, and bundles are prepared again (whose shards `consume` "
      "deleted are copied or exported again first).");
}

// Others who know the secret, or chose it, could seal packed weights in this user's name.
void require_private(int fd, const std::string& path) {
  struct stat status;
  if (fstat(fd, &status) != 0) throw_errno(path, "inspect");
  const bool own = status.st_uid == geteuid();
  if (own && (status.st_mode & 077) == 0) return;
  throw Error(
      ErrorCode::kIo, path,
      own ? "other users may read or write this secret, so it does not tell what this user packed"
          : "this secret belongs to user " + std::to_string(status.st_uid) +
                ", and moe-mobile runs as user " + std::to_string(geteuid()),
      std::string(own ? "Delete it" : "Run moe-mobile as that user, or delete the file") +
          ": a new one is made, and bundles are prepared again (whose shards `consume` deleted are "
          "copied or exported again first). If this comes again, its file system keeps no owners "
          "and modes: set MOE_MOBILE_STATE_DIR to a folder on another one.");
}

UniqueFd open_secret(const std::string& directory, const std::string& path) {
  try {
    make_directories(directory, 0700);
    UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600));
    if (!fd.valid()) throw_errno(path, "create the file");
    return fd;
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kIo && error.code() != ErrorCode::kReadOnly) throw;
    throw Error(error.code(), error.file(), error.cause() + ". It is for " + kPurpose,
                kOtherFolder);
  }
}

MachineSecret read_secret(int fd, const std::string& path) {
  if (file_size(fd, path) != sizeof(MachineSecret)) refuse(path);
  MachineSecret secret;
  read_exactly(fd, secret.data(), secret.size(), 0, path);
  return secret;
}

MachineSecret random_secret() {
  MachineSecret secret;
  // The system call: neither /dev nor a new C library is needed.
  if (syscall(SYS_getrandom, secret.data(), secret.size(), 0) != long{sizeof(MachineSecret)})
    throw_errno("getrandom", "read random bytes");
  return secret;
}

}  // namespace

std::string default_state_directory() {
  const std::string own = variable("MOE_MOBILE_STATE_DIR");
  if (!own.empty()) return own;
  const std::string state = variable("XDG_STATE_HOME");
  if (!state.empty()) return state + "/moe-mobile";
  const std::string home = variable("HOME");
  return home.empty() ? "" : home + "/.local/state/moe-mobile";
}

void set_state_directory(std::string directory) {
  const MutexLock lock(&directory_mutex());
  directory_of_process() = std::move(directory);
}

std::string state_directory() {
  const MutexLock lock(&directory_mutex());
  return directory_of_process();
}

MachineSecret machine_secret() {
  const std::string directory = state_directory();
  if (directory.empty())
    throw Error(ErrorCode::kUsage, Setting{"MOE_MOBILE_STATE_DIR"},
                std::string("there is no folder for ") + kPurpose, kOtherFolder);
  const std::string path = directory + "/" + kFileName;
  const UniqueFd fd = open_secret(directory, path);
  require_private(fd.get(), path);
  // Two processes may begin at once; a killed one may have left the file empty or cut.
  if (!lock_file(fd.get(), path, std::chrono::minutes(1)))
    throw Error(ErrorCode::kIo, path, "another process has kept its lock for a minute",
                "End the moe-mobile process that has stopped, and try again.");
  if (file_size(fd.get(), path) >= sizeof(MachineSecret)) return read_secret(fd.get(), path);
  const MachineSecret secret = random_secret();
  if (ftruncate(fd.get(), 0) != 0) throw_errno(path, "write");
  write_all(fd.get(), secret.data(), secret.size(), path);
  if (fsync(fd.get()) != 0) throw_errno(path, "write through to the disk");
  sync_directory(directory);
  return secret;
}

std::optional<MachineSecret> existing_machine_secret() {
  const std::string directory = state_directory();
  if (directory.empty()) return std::nullopt;
  const std::string path = directory + "/" + kFileName;
  if (access(path.c_str(), F_OK) != 0) return std::nullopt;
  const UniqueFd fd = open_read(path);
  require_private(fd.get(), path);
  if (file_size(fd.get(), path) < sizeof(MachineSecret)) return std::nullopt;
  return read_secret(fd.get(), path);
}

}  // namespace moe_mobile
