// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <functional>

namespace moe_mobile {

// Calls `body(begin, end)` for ranges that cover [0, n) once, on any number of threads, and returns
// when all are done. The host supplies it (ExecuTorch's thread pool, or serial_for).
using ParallelFor =
    std::function<void(size_t n, const std::function<void(size_t begin, size_t end)>& body)>;

inline void serial_for(size_t n, const std::function<void(size_t begin, size_t end)>& body) {
  if (n > 0) body(0, n);
}

}  // namespace moe_mobile
