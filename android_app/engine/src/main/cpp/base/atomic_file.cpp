// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <utility>

#include "base/error.h"
#include "base/file.h"

namespace moe_mobile {
namespace {

std::string folder_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

[[noreturn]] void throw_busy(const std::string& path) {
  throw Error(ErrorCode::kIo, path, "another process is writing this file",
              "Wait for it to finish and try again");
}

// The lock may then be this process's own, on another file that it holds.
void refuse_second_name(int fd, const std::string& path) {
  struct stat status;
  if (::fstat(fd, &status) != 0 || status.st_nlink < 2) return;
  throw Error(ErrorCode::kIo, path, "is a second name (a hard link) of a file that is in use",
              "Delete this name and try again");
}

// An invalid descriptor, with errno set, if it cannot be opened.
UniqueFd open_temporary(const std::string& temporary, int flags) {
  int raw;
  do {
    raw = ::open(temporary.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | flags, 0644);
  } while (raw < 0 && errno == EINTR);
  return UniqueFd(raw);
}

// The lock keeps two live processes apart: who holds it on the file of that name may write it or
// remove the name.
void lock_temporary(int fd, const std::string& temporary) {
  // File systems without locks are accepted.
  if (::flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    refuse_second_name(fd, temporary);
    throw_busy(temporary);
  }
  // Between open and lock another process may have renamed or removed the file. Then do not touch
  // what has its name now.
  struct stat mine, named;
  if (::fstat(fd, &mine) != 0) throw_errno(temporary, "create");
  if (::lstat(temporary.c_str(), &named) != 0 || mine.st_ino != named.st_ino ||
      mine.st_dev != named.st_dev) {
    throw_busy(temporary);
  }
}

// The name is fixed, so leftovers of killed processes do not pile up. A leftover is not written
// into: it may be another file's bytes under a second name.
void remove_leftover(const std::string& temporary) {
  const UniqueFd leftover = open_temporary(temporary, 0);
  if (!leftover.valid() && errno == ENOENT) return;
  if (!leftover.valid()) throw_errno(temporary, "create");
  lock_temporary(leftover.get(), temporary);
  if (::unlink(temporary.c_str()) != 0) throw_errno(temporary, "remove");
}

UniqueFd create_temporary(const std::string& temporary) {
  remove_leftover(temporary);
  UniqueFd fd = open_temporary(temporary, O_CREAT | O_EXCL);
  if (!fd.valid() && errno == EEXIST) throw_busy(temporary);  // since the leftover was removed
  if (!fd.valid()) throw_errno(temporary, "create");
  lock_temporary(fd.get(), temporary);
  return fd;
}

}  // namespace

void sync_directory(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) throw_errno(path, "open");
  if (::fsync(fd.get()) != 0 && errno != EINVAL && errno != ENOTSUP && errno != EBADF) {
    throw_errno(path, "sync");
  }
}

AtomicFile::AtomicFile(std::string path)
    : path_(std::move(path)), temporary_(path_ + ".partial"), fd_(create_temporary(temporary_)) {}

AtomicFile::AtomicFile(AtomicFile&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_(std::move(other.temporary_)),
      fd_(std::move(other.fd_)),
      position_(other.position_) {}

AtomicFile::~AtomicFile() {
  if (fd_.valid()) ::unlink(temporary_.c_str());  // while the lock is held
}

void AtomicFile::write(const void* source, size_t bytes) {
  pwrite(source, bytes, position_);
  position_ += bytes;
}

void AtomicFile::pwrite(const void* source, size_t bytes, uint64_t offset) {
  const auto* in = static_cast<const uint8_t*>(source);
  while (bytes > 0) {
    const ssize_t put = ::pwrite(fd_.get(), in, bytes < (1u << 30) ? bytes : (1u << 30),
                                 static_cast<off_t>(offset));
    if (put < 0) {
      if (errno == EINTR) continue;
      throw_errno(temporary_, "write");
    }
    in += put;
    offset += static_cast<uint64_t>(put);
    bytes -= static_cast<size_t>(put);
  }
}

void AtomicFile::commit() {
  if (::fsync(fd_.get()) != 0) throw_errno(temporary_, "sync");
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) throw_errno(path_, "rename");
  fd_.reset();  // nothing left to remove
  sync_directory(folder_of(path_));
}

}  // namespace moe_mobile
