// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "bundle/manifest.h"
#include "cache/memory_planner.h"
#include "plan/settings.h"
#include "routing/selector.h"

namespace moe_mobile {

// Facts from a bundle's packed store about the bundle's programs on this machine.
struct StoreFacts {
  // One expert's packed weights, by variant; 0 if experts are not packed.
  std::vector<uint64_t> slot_bytes;
  uint64_t dense_bytes = 0;       // memory for the weights of all dense programs
  bool has_programs = true;       // all experts' programs exist (prepare --consume deletes them)
  std::optional<Error> no_slots;  // why experts cannot run in slots; empty if not known
};

// Everything that opening an engine decides before it takes any memory.
struct EnginePlan {
  EngineSettings settings;  // without automatic values, except `cache`
  ResolvedRouting routing;
  bool lossy = false;  // whether the output may differ from what the model computes
  std::string note;    // a note on the routing for the user; may be empty
  MemoryPlan memory;
  SelectorSettings selector;
  std::vector<std::string> fallbacks;  // what differs from the settings, and why
};

// kUsage if a bundle with these precisions of its experts, of which a token uses `top_k`, cannot
// run in `precision`. REQUIRES: there is at least one.
void check_precision(const Precision& precision, uint32_t top_k,
                     const std::vector<ExpertPrecision>& precisions);

// Settings with the automatic values that depend on the model alone filled in: context, pool and
// initial cache. kUsage, naming the setting, for one that the model does not allow.
EngineSettings resolve_settings(const EngineSettings& settings, const Manifest& manifest);

// Decides how to run a bundle. Reads no file and asks the system nothing, so equal arguments give
// equal plans. `available_bytes` is available_memory() before anything is loaded.
// If slots do not work the plan falls back to whole programs; it throws `store.no_slots` if it
// cannot. kBudget as plan_memory().
// REQUIRES: the settings are from resolve_settings().
EnginePlan plan_engine(const EngineSettings& settings, const Manifest& manifest,
                       const StoreFacts& store, uint64_t available_bytes);

}  // namespace moe_mobile
