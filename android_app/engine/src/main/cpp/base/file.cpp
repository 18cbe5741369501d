// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "base/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>

#include "base/error.h"

namespace moe_mobile {
namespace {

constexpr uint64_t kMaxOffset = std::numeric_limits<int64_t>::max();

}  // namespace

UniqueFd& UniqueFd::operator=(UniqueFd&& other) noexcept {
  if (this != &other) {
    reset();
    fd_ = other.release();
  }
  return *this;
}

int UniqueFd::release() {
  const int fd = fd_;
  fd_ = -1;
  return fd;
}

void UniqueFd::reset() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

UniqueFd open_read(const std::string& path, bool direct) {
  if (path.find('\0') != std::string::npos) {
    throw Error(ErrorCode::kBundleInvalid, path.c_str(), "the path contains a NUL byte");
  }
  // O_NONBLOCK: opening a pipe without a writer would otherwise hang.
  const int flags = O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | (direct ? O_DIRECT : 0);
  int raw;
  do {
    raw = ::open(path.c_str(), flags);
  } while (raw < 0 && errno == EINTR);
  if (raw < 0) {
    if (errno == ELOOP) {
      throw Error(ErrorCode::kBundleInvalid, path, "is a symbolic link",
                  "Put the file itself there");
    }
    if (errno == ENXIO) {
      throw Error(ErrorCode::kBundleInvalid, path, "is not a regular file");
    }
    throw_errno(path, "open");
  }
  UniqueFd fd(raw);
  struct stat status;
  if (::fstat(fd.get(), &status) != 0) throw_errno(path, "inspect");
  if (!S_ISREG(status.st_mode)) {
    throw Error(ErrorCode::kBundleInvalid, path, "is not a regular file");
  }
  return fd;
}

uint64_t file_size(int fd, const std::string& path) {
  struct stat status;
  if (::fstat(fd, &status) != 0) throw_errno(path, "inspect");
  return static_cast<uint64_t>(status.st_size);
}

void read_exactly(int fd, void* destination, size_t bytes, uint64_t offset,
                  const std::string& path) {
  auto* out = static_cast<uint8_t*>(destination);
  size_t done = 0;
  while (done < bytes) {
    if (offset > kMaxOffset - done) {
      throw Error(ErrorCode::kBundleInvalid, path, "an offset is beyond the largest file");
    }
    const ssize_t got = ::pread(fd, out + done, std::min(bytes - done, kMaxTransfer),
                                static_cast<off_t>(offset + done));
    if (got < 0) {
      if (errno == EINTR) continue;
      throw_errno(path, "read");
    }
    if (got == 0) {
      throw Error(ErrorCode::kBundleCorrupt, path,
                  "ends at byte " + std::to_string(offset + done) + ", but " +
                      std::to_string(bytes - done) + " more bytes were expected",
                  "The file is truncated: copy or export it again");
    }
    done += static_cast<size_t>(got);
  }
}

void write_all(int fd, const void* source, size_t bytes, const std::string& path) {
  const auto* in = static_cast<const uint8_t*>(source);
  while (bytes > 0) {
    const ssize_t put = ::write(fd, in, std::min(bytes, kMaxTransfer));
    if (put < 0) {
      if (errno == EINTR) continue;
      throw_errno(path, "write");
    }
    in += put;
    bytes -= static_cast<size_t>(put);
  }
}

void make_directories(const std::string& path, unsigned mode) {
  for (size_t slash = path.find('/', 1);; slash = path.find('/', slash + 1)) {
    const std::string part = path.substr(0, slash);
    if (mkdir(part.c_str(), mode) != 0 && errno != EEXIST && errno != EISDIR) {
      struct stat status{};
      const int error = errno;
      if (stat(part.c_str(), &status) != 0 || !S_ISDIR(status.st_mode)) {
        errno = error;
        throw_errno(part, "create the folder");
      }
    }
    if (slash == std::string::npos) return;
  }
}

uint64_t free_space(const std::string& path) {
  struct statvfs space{};
  if (statvfs(path.c_str(), &space) != 0) throw_errno(path, "read the free space");
  return static_cast<uint64_t>(space.f_bavail) * space.f_frsize;
}

std::string read_text(const std::string& path, uint64_t max_bytes) {
  const UniqueFd fd = open_read(path);
  const uint64_t size = file_size(fd.get(), path);
  if (size > max_bytes) {
    throw Error(ErrorCode::kBundleInvalid, path,
                "is " + std::to_string(size) + " bytes long; at most " + std::to_string(max_bytes) +
                    " are allowed");
  }
  std::string text(size, '\0');
  read_exactly(fd.get(), text.data(), text.size(), 0, path);
  return text;
}

}  // namespace moe_mobile
