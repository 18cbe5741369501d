// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "base/error.h"

#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

namespace moe_mobile {
namespace {

std::string sentence(const std::string& place, const std::string& cause,
                     const std::string& remedy) {
  std::string text = place.empty() ? cause : place + ": " + cause;
  if (!remedy.empty()) text += ". " + remedy;
  return text;
}

bool writes(const char* action) {
  for (const char* verb : {"write", "create", "rename", "sync", "remove"}) {
    if (std::strncmp(action, verb, std::strlen(verb)) == 0) return true;
  }
  return false;
}

bool is_link(const std::string& path) {
  struct stat status{};
  return lstat(path.c_str(), &status) == 0 && S_ISLNK(status.st_mode);
}

}  // namespace

const char* to_string(ErrorCode code) {
  switch (code) {
    case ErrorCode::kUsage:
      return "usage";
    case ErrorCode::kUnsupported:
      return "unsupported";
    case ErrorCode::kBundleInvalid:
      return "bundle_invalid";
    case ErrorCode::kBundleCorrupt:
      return "bundle_corrupt";
    case ErrorCode::kIo:
      return "io";
    case ErrorCode::kDiskFull:
      return "disk_full";
    case ErrorCode::kReadOnly:
      return "read_only";
    case ErrorCode::kBudget:
      return "budget";
    case ErrorCode::kRuntime:
      return "runtime";
    case ErrorCode::kCancelled:
      return "cancelled";
  }
  return "runtime";
}

int exit_code(ErrorCode code) {
  if (code == ErrorCode::kCancelled) return 130;  // what shells report for an interrupt
  return 2 + static_cast<int>(code);
}

Error::Error(ErrorCode code, std::string file, std::string cause, std::string remedy)
    : std::runtime_error(sentence(file, cause, remedy)),
      code_(code),
      file_(std::move(file)),
      cause_(std::move(cause)),
      remedy_(std::move(remedy)) {}

Error::Error(ErrorCode code, Setting setting, std::string cause, std::string remedy)
    : std::runtime_error(sentence(setting.name, cause, remedy)),
      code_(code),
      setting_(std::move(setting.name)),
      cause_(std::move(cause)),
      remedy_(std::move(remedy)) {}

void throw_errno(const std::string& file, const char* action) {
  const int error = errno;
  const std::string cause =
      std::string("cannot ") + action + ": " + std::system_category().message(error);
  if (error == ENOSPC || error == EDQUOT) {
    throw Error(ErrorCode::kDiskFull, file, cause, "Free space there or choose another folder");
  }
  if (writes(action) && (error == EROFS || error == EACCES || error == EPERM)) {
    throw Error(ErrorCode::kReadOnly, file, cause,
                "Make the folder writable or choose another one");
  }
  if (error == ELOOP && is_link(file)) {
    throw Error(ErrorCode::kUsage, file,
                std::string("cannot ") + action + ": links are not followed there",
                "Delete this link");
  }
  throw Error(ErrorCode::kIo, file, cause,
              error == ENOENT ? "Check the path" : "Check the path, its permissions and the disk");
}

std::string in_quotes(const std::string& text) {
  std::string shown = "\"";
  for (const char c : text.substr(0, 64)) shown += c >= ' ' && c <= '~' ? c : '?';
  return shown + (text.size() > 64 ? "...\"" : "\"");
}

}  // namespace moe_mobile
