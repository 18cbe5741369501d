// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "cache/budget.h"
#include "cache/eviction.h"
#include "routing/initial_cache.h"
#include "routing/precision.h"
#include "routing/routing_options.h"

namespace moe_mobile {

enum class Residency {
  kSlots,     // experts stream into slots
  kPrograms,  // experts stream as programs, each loaded when it is missed
  kResident,  // all experts in memory, in slots
};

// How the experts' cache is divided.
enum class Pool {
  kAuto,      // global for exact routing, else per layer
  kGlobal,    // one for all layers
  kPerLayer,  // one for each layer, all of one size
};

// How to run a bundle. Facts about the model are in the bundle, never here.
struct EngineSettings {
  Budget cache{Budget::Kind::kPercent, 0, 50};
  Residency residency = Residency::kSlots;
  RoutingOptions routing;
  Pool pool = Pool::kAuto;
  EvictionOptions eviction;
  Precision precision;  // of the experts that a token selects
  InitialCache initial_cache = InitialCache::kAuto;
  // Experts by layer, the best first. Only for InitialCache::kProfile.
  std::map<uint32_t, std::vector<uint32_t>> cache_profile;
  uint32_t lanes = 2;      // threads that read experts, 1 to ReadLanes::kMost
  uint32_t threads = 0;    // 0: ExecuTorch's choice, one per core
  uint32_t context = 0;    // positions; 0: the model's, at most kDefaultContext
  std::string packed_dir;  // empty: the bundle's own
  // A folder for the slots' short-lived files if the packed store's folder is not writable. Empty:
  // that one must be writable.
  std::string scratch_dir;
  bool allow_below_cycle = false;  // a cache smaller than what one token uses
  bool overlap = true;             // run hits while misses are read
  bool direct = true;              // O_DIRECT if the file system has it
};

constexpr uint32_t kDefaultContext = 4096;

// Throws kUsage, naming the setting, if values are invalid for every bundle.
void check_settings(const EngineSettings& settings);

}  // namespace moe_mobile
