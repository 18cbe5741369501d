// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "engine/cancellation.h"
#include "engine/engine.h"
#include "metrics/process_memory.h"

namespace moe_mobile {

struct BenchRequest {
  uint32_t n_prompt = 512;
  uint32_t n_gen = 128;
  uint32_t repetitions = 5;
  bool warmup = true;
  uint32_t seed = 0;  // of the random token ids
  // [positions, MoE layers, experts]: used instead of the routers' at each position of a
  // conversation. Empty: the routers' own.
  std::vector<float> router_logits;
};

// One repetition.
struct BenchSample {
  double cache_fill = 0;  // share of the cache that held experts when it began
  uint64_t prompt_ns = 0;
  std::optional<uint64_t> ttft_ns;  // time to the first token; empty without a prompt
  uint64_t gen_ns = 0;
  std::vector<uint64_t> itl_ns;  // inter-token latency of each token decoded
  std::vector<Step> steps;
  ProcessMemory memory;  // at its end
};

// llama-bench's measurement: a prompt of random tokens, then n_gen tokens decoded, each also
// random, so that no sampling is timed. The warm-up repetition is not reported. kUsage for a
// request that does not fit the engine, kCancelled if `cancellation` says so.
std::vector<BenchSample> run_bench(Engine* engine, const BenchRequest& request,
                                   const Cancellation& cancellation, const Progress& progress);

}  // namespace moe_mobile
