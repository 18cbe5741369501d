// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <functional>
#include <string>

namespace moe_mobile {

// Takes the exclusive lock of an open file, which the kernel drops when the process ends for any
// reason. While another process holds it, waits up to `patience` and calls `waiting` with the time
// so far before each pause. Returns whether it has the lock. Throws Error of kind kIo if the file
// cannot be locked at all.
[[nodiscard]] bool lock_file(int fd, const std::string& path, std::chrono::milliseconds patience,
                             const std::function<void(std::chrono::milliseconds)>& waiting = {});

}  // namespace moe_mobile
