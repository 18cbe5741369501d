// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "decoder/sampler.h"

namespace moe_mobile {

enum class Residency {
  kSlots,     // experts stream into slots
  kPrograms,  // experts stream as programs, each loaded on its miss
  kResident,  // all experts in memory, in slots
};

// How to run a bundle. Model facts are in the bundle, never here.
struct EngineSettings {
  std::string cache = "50%";  // see parse_budget()
  Residency residency = Residency::kSlots;
  std::string routing = "exact";
  uint32_t lanes = 2;
  uint32_t threads = 0;  // 0: ExecuTorch's choice, one per core
  uint32_t context = 0;  // 0: the model's, at most kDefaultContext
  std::string packed_dir;
  // For the slots' short-lived files where the packed store's folder is not writable. Empty: they
  // must be.
  std::string scratch_dir;
  bool allow_below_cycle = false;
  bool overlap = true;  // run hits while misses are read
  bool direct = true;   // O_DIRECT where the file system has it
};

constexpr uint32_t kDefaultContext = 4096;

// From the host's JSON object; members may be missing. kUsage for an unknown member, a wrong type
// or a bad value.
EngineSettings parse_settings(const nlohmann::json& json);
nlohmann::json to_json(const EngineSettings& settings);

// {temperature, top_k, top_p, seed}, all optional.
SamplingSettings parse_sampling(const nlohmann::json& json);

}  // namespace moe_mobile
