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
#include "executorch/program.h"
#include "plan/engine_plan.h"

namespace moe_mobile {

// Thrown if this machine cannot run the bundle's experts in slots. The next plan takes that into
// account.
class SlotsUnusable : public Error {
 public:
  explicit SlotsUnusable(const Error& cause) : Error(cause) {}
};

// Prepares the dense programs if necessary, and returns the store's facts about them.
StoreFacts read_store_facts(const Bundle& bundle, const EngineSettings& settings,
                            const Progress& progress);

// Opens the files of the packed store that the plan needs, and prepares them first if necessary.
// SlotsUnusable if an expert does not fit in any slot.
std::unique_ptr<PackedStore> open_store(const EnginePlan& plan, const Bundle& bundle,
                                        const Progress& progress);

// The parts of an open engine. Each member uses those above it.
struct EngineParts {
  std::unique_ptr<PackedStore> store;
  std::unique_ptr<PlannedArena> arena;
  std::unique_ptr<ResidencyMap> residency;
  std::unique_ptr<Decoder> decoder;
  bool direct_io = false;  // whether all experts are read with O_DIRECT
};

// Allocates memory and loads as the plan says. SlotsUnusable if slots do not work here.
// REQUIRES: `bundle` and the thread pool of `parallel` outlive the parts; `store` is from
// open_store() for this plan.
EngineParts build(const EnginePlan& plan, const Bundle& bundle, std::unique_ptr<PackedStore> store,
                  ParallelFor parallel, const Progress& progress);

}  // namespace moe_mobile
