// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/progress.h"

namespace moe_mobile {

struct BenchRequest {
  uint32_t n_prompt = 512;
  uint32_t n_gen = 128;
  uint32_t repetitions = 5;
  bool warmup = true;
  uint32_t seed = 0;  // of the random token ids
  // [positions, MoE layers, experts]: taken for what the routers say at each position of a
  // conversation. Empty: the routers' own.
  std::vector<float> router_logits;
};

// llama-bench's measurement: a prompt of random tokens, then n_gen tokens decoded, each also
// random, so that no sampling is timed. One array element per repetition; see docs/runner.md. The
// warm-up repetition is not reported.
nlohmann::json run_bench(Engine* engine, const BenchRequest& request, const Progress& progress);

// What a miss costs, split, over `count` experts drawn at random. Interleaved in one run, all
// nanoseconds:
//   raw_read_ns    one O_DIRECT pread of the packed bytes into memory of its own
//   slot_miss_ns   the same bytes as a slot miss, through a read lane into the slot, until it can
//   run slot_rest_ns   the part of slot_miss_ns in which the lane was not reading program_read_ns,
//   program_load_ns   a program miss: O_DIRECT read, then ExecuTorch's load forward_ns     one
//   forward pass of one row
// Needs residency slots.
nlohmann::json measure_misses(Engine* engine, uint32_t count, uint32_t seed);

// Times the `forward` method of any program whose inputs are float32 matrices: {"samples_ns":
// [...]}. After a warm-up.
nlohmann::json time_program(const std::string& path, uint32_t iterations, uint32_t threads);

}  // namespace moe_mobile
