// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace moe_mobile {

struct ProgramTimes {
  std::vector<uint64_t> samples_ns;
  uint32_t threads = 0;
};

// Times the `forward` method of any program whose inputs are float32 matrices, after a warm-up.
// `iterations` is 1 to 1000000; with `threads` 0 ExecuTorch chooses their number. `before_each` is
// called before each run, and may throw to end it. kUsage for a number out of range, or for another
// program.
ProgramTimes time_program(const std::string& path, uint32_t iterations, uint32_t threads,
                          const std::function<void()>& before_each);

}  // namespace moe_mobile
