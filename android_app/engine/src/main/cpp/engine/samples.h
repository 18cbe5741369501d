// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "base/error.h"

namespace moe_mobile {

// How many samples a measurement of misses, or of a program, takes if nobody says.
constexpr uint32_t kDefaultMisses = 64;
constexpr uint32_t kDefaultIterations = 50;

// kUsage unless the setting is a number of samples that a measurement takes: all of them are kept
// in memory until the end.
inline void require_samples(const char* setting, uint32_t count) {
  constexpr uint32_t kMost = 1'000'000;
  if (count < 1 || count > kMost)
    throw Error(ErrorCode::kUsage, Setting{setting},
                "must be 1 to " + std::to_string(kMost) + ", not " + std::to_string(count),
                "Give a number in that range.");
}

}  // namespace moe_mobile
