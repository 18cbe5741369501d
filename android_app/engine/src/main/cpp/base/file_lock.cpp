// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "base/file_lock.h"

#include <sys/file.h>

#include <algorithm>
#include <cerrno>
#include <thread>

#include "base/error.h"

namespace moe_mobile {

bool lock_file(int fd, const std::string& path, std::chrono::milliseconds patience,
               const std::function<void(std::chrono::milliseconds)>& waiting) {
  constexpr std::chrono::milliseconds kLongestPause{200};
  std::chrono::milliseconds waited{0}, pause{1};
  while (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) throw_errno(path, "lock");
    if (waited >= patience) return false;
    if (waiting) waiting(waited);
    std::this_thread::sleep_for(pause);
    waited += pause;
    pause = std::min(2 * pause, kLongestPause);
  }
  return true;
}

}  // namespace moe_mobile
