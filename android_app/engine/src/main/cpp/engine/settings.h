// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "decoder/sampler.h"

namespace moe_mobile {

enum class Residency {
  kSlots,     // experts stream into slots
  kPrograms,  // experts stream as programs, each loaded on its miss
  kResident,  // all experts in memory, in slots
};

// How the experts' cache is divided.
enum class Pool {
  kAuto,      // global for exact routing, else per layer
  kGlobal,    // one for all layers
  kPerLayer,  // of equal sizes
};

// What is cached when decoding begins. Only `warm` depends on what the engine did before.
enum class InitialCache {
  kAuto,     // warm for exact routing, which it does not change; else prompt
  kWarm,     // what earlier conversations and the prompt left
  kCold,     // nothing
  kPrompt,   // what the prompt leaves of an empty cache
  kProfile,  // the experts of `cache_profile`
};

// How to run a bundle. Model facts are in the bundle, never here.
struct EngineSettings {
  std::string cache = "50%";  // see parse_budget()
  Residency residency = Residency::kSlots;
  std::string routing = "exact";  // see parse_routing()
  Pool pool = Pool::kAuto;
  std::string eviction = "lru";  // see parse_eviction()
  InitialCache initial_cache = InitialCache::kAuto;
  // By number of the layer: experts, the best first. For InitialCache::kProfile.
  std::map<uint32_t, std::vector<uint32_t>> cache_profile;
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
