// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "bundle/bundle.h"
#include "engine/engine.h"
#include "engine/expert_stream.h"

namespace moe_mobile {

// Called before each read and each run. It may throw, which ends the measurement.
using BeforeEach = std::function<void()>;

// Engine::measure_misses(). The things to compare are measured in turns, in one run. No expert is
// in memory afterwards.
// REQUIRES: the places of `stream` are slots.
MissCosts measure_misses(const Bundle& bundle, ExpertStream* stream, uint32_t count, uint32_t seed,
                         const BeforeEach& before_each);

struct ProgramTimes {
  std::vector<uint64_t> samples_ns;
  uint32_t threads = 0;
};

// Times the `forward` method of any program whose inputs are float32 matrices, after a warm-up.
// `iterations` is 1 to 1000000; with `threads` 0 ExecuTorch chooses their number.
ProgramTimes time_program(const std::string& path, uint32_t iterations, uint32_t threads,
                          const BeforeEach& before_each);

}  // namespace moe_mobile
