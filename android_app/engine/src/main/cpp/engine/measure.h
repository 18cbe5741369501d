// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bundle/bundle.h"
#include "engine/engine.h"
#include "engine/expert_stream.h"

namespace moe_mobile {

// Engine::measure_misses(). The things to compare are measured in turns, in one run. `progress` is
// called after each miss; an exception from it ends the measurement.
// REQUIRES: the places of `stream` are slots.
MissCosts measure_misses(const Bundle& bundle, ExpertStream* stream, uint32_t count, uint32_t seed,
                         const Progress& progress);

struct ProgramTimes {
  std::vector<uint64_t> samples_ns;
  uint32_t threads = 0;
};

// Times the `forward` method of any program whose inputs are float32 matrices, after a warm-up.
// `iterations` is 1 to 1000000; with `threads` 0 ExecuTorch chooses their number.
ProgramTimes time_program(const std::string& path, uint32_t iterations, uint32_t threads);

}  // namespace moe_mobile
