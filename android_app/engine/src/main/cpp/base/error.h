// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdexcept>
#include <string>

namespace moe_mobile {

// What went wrong, in the taxonomy shared with the Python package. Each code has one process exit
// code.
enum class ErrorCode {
  kUsage,          // bad arguments
  kUnsupported,    // an architecture, option or version this build does not support
  kBundleInvalid,  // manifest or file breaks the bundle format
  kBundleCorrupt,  // bytes do not match their hash or checksum
  kIo,             // a read or write failed
  kDiskFull,
  kReadOnly,   // the place is not writable
  kBudget,     // the memory budget is too small, or larger than the memory there is
  kRuntime,    // ExecuTorch failed, or a value it produced cannot be used
  kCancelled,  // the user stopped the run
};

// "bundle_corrupt", "disk_full", ...
const char* to_string(ErrorCode code);

// 2 usage .. 10 runtime, 130 cancelled.
int exit_code(ErrorCode code);

// The subject of an Error that is not about a file: a setting, an argument or a member of a
// request.
struct Setting {
  std::string name;
};

// Every failure a user can see: which file or setting (neither if a part of the engine failed),
// why, and what to do about it.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, std::string file, std::string cause, std::string remedy = "");
  Error(ErrorCode code, Setting setting, std::string cause, std::string remedy = "");

  ErrorCode code() const { return code_; }
  const std::string& file() const { return file_; }        // "" if not about a file
  const std::string& setting() const { return setting_; }  // "" if not about a setting
  const std::string& cause() const { return cause_; }
  const std::string& remedy() const { return remedy_; }

 private:
  ErrorCode code_;
  std::string file_;
  std::string setting_;
  std::string cause_;
  std::string remedy_;
};

// Throws the Error for `errno` and `file`: ENOSPC and EDQUOT are kDiskFull; EROFS, EACCES and EPERM
// are kReadOnly when `action` writes (it starts with "write", "create", "rename", "sync" or
// "remove"); ELOOP is kUsage if `file` is a link that O_NOFOLLOW did not follow; everything else is
// kIo. `action` completes the sentence "cannot <action>".
[[noreturn]] void throw_errno(const std::string& file, const char* action);

// A string from a file made safe for messages: printable ASCII, at most 64 bytes, in quotes.
std::string in_quotes(const std::string& text);

}  // namespace moe_mobile
