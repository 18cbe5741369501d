// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "base/error.h"
#include "base/parallel_for.h"
#include "bundle/bundle.h"
#include "cache/residency_map.h"
#include "engine/decoder.h"
#include "engine/packed_store.h"
#include "engine/progress.h"
#include "executorch/method.h"
#include "plan/engine_plan.h"

namespace moe_mobile {

// This machine cannot run the bundle's experts in slots: a fact for the next plan.
class SlotsUnusable : public Error {
 public:
  explicit SlotsUnusable(const Error& cause) : Error(cause) {}
};

// Prepares the dense programs if necessary, and tells what the store says about them.
StoreFacts read_store_facts(const Bundle& bundle, const EngineSettings& settings,
                            const Progress& progress);

// Opens what the plan needs of the packed store, prepared first if necessary. SlotsUnusable if an
// expert fits no slot.
std::unique_ptr<PackedStore> open_store(const EnginePlan& plan, const Bundle& bundle,
                                        const Progress& progress);

// What an open engine is made of. Each member uses those above it.
struct EngineParts {
  std::unique_ptr<PackedStore> store;
  std::unique_ptr<PlannedArena> arena;
  std::unique_ptr<ResidencyMap> residency;
  std::unique_ptr<Decoder> decoder;
  bool direct_io = false;  // whether all experts are read with O_DIRECT
};

// Takes the memory and loads what the plan says. SlotsUnusable if slots do not work here.
// REQUIRES: `bundle` and what `parallel` runs on outlive the parts; `store` is open_store()'s for
// this plan.
EngineParts build(const EnginePlan& plan, const Bundle& bundle, std::unique_ptr<PackedStore> store,
                  ParallelFor parallel, const Progress& progress);

}  // namespace moe_mobile
