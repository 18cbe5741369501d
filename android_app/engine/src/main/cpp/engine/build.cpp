// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "engine/build.h"

#include <numeric>

#include "base/heap.h"
#include "engine/prepare.h"
#include "engine/program_places.h"
#include "engine/slot_places.h"

namespace moe_mobile {
namespace {

std::unique_ptr<PackedStore> open_prepared(const Bundle& bundle, const EngineSettings& settings,
                                           bool experts, const Progress& progress) {
  if (!is_prepared(bundle, settings.packed_dir, experts)) {
    PrepareOptions options;
    options.packed_dir = settings.packed_dir;
    options.experts = experts;
    prepare(bundle, options, progress);
    return_free_heap();
  }
  return std::make_unique<PackedStore>(
      bundle, settings.packed_dir,
      PackedStore::Options{settings.direct, experts, settings.scratch_dir});
}

// By variant; null for a variant that no rank uses.
std::vector<std::unique_ptr<ExpertPlaces>> make_places(const EnginePlan& plan, const Bundle& bundle,
                                                       Span<const uint32_t> counts,
                                                       EngineParts* parts) {
  std::vector<std::unique_ptr<ExpertPlaces>> places(counts.size());
  parts->direct_io = plan.settings.residency == Residency::kPrograms || parts->store->direct();
  const uint32_t all = std::accumulate(counts.begin(), counts.end(), uint32_t{0});
  for (uint32_t variant = 0; variant < counts.size(); ++variant) {
    if (counts[variant] == 0) continue;
    if (plan.settings.residency == Residency::kPrograms) {
      auto programs = std::make_unique<ProgramPlaces>(bundle, variant, counts[variant],
                                                      parts->arena.get(), plan.settings.direct);
      parts->direct_io = parts->direct_io && programs->direct();
      places[variant] = std::move(programs);
      continue;
    }
    try {
      places[variant] =
          std::make_unique<SlotPlaces>(bundle, *parts->store, variant, all, parts->arena.get());
      parts->residency->make_places(variant, 1);  // probing has written to it
    } catch (const Error& error) {
      if (error.code() == ErrorCode::kRuntime) throw SlotsUnusable(error);
      throw;
    }
  }
  return places;
}

}  // namespace

StoreFacts read_store_facts(const Bundle& bundle, const EngineSettings& settings,
                            const Progress& progress) {
  const auto store = open_prepared(bundle, settings, /*experts=*/false, progress);
  StoreFacts facts;
  facts.slot_bytes = store->slot_bytes();
  facts.dense_bytes = store->dense_bytes();
  facts.no_slots = why_experts_are_not_packed(bundle);
  facts.has_programs = bundle.has_all_shards();
  return facts;
}

std::unique_ptr<PackedStore> open_store(const EnginePlan& plan, const Bundle& bundle,
                                        const Progress& progress) {
  const bool experts = plan.settings.residency != Residency::kPrograms;
  try {
    return open_prepared(bundle, plan.settings, experts, progress);
  } catch (const Error& error) {
    if (experts && error.code() == ErrorCode::kUnsupported) throw SlotsUnusable(error);
    throw;
  }
}

EngineParts build(const EnginePlan& plan, const Bundle& bundle, std::unique_ptr<PackedStore> store,
                  ParallelFor parallel, const Progress& progress) {
  EngineParts parts;
  parts.store = std::move(store);
  parts.arena = std::make_unique<PlannedArena>();
  parts.residency =
      std::make_unique<ResidencyMap>(plan.selector.layers, plan.selector.router.num_experts);
  auto dense = std::make_unique<DensePrograms>(bundle, *parts.store, parts.arena.get(), progress);
  ExpertStream::Options options;
  options.lanes = plan.settings.lanes;
  options.moe_layers = static_cast<uint32_t>(plan.selector.layers.size());
  options.overlap = plan.settings.overlap;
  options.shown = parts.residency.get();
  options.limits = plan.memory.slots_by_variant(bundle.manifest().precisions.size());
  auto experts =
      std::make_unique<ExpertStream>(make_places(plan, bundle, options.limits, &parts), options);
  parts.decoder = std::make_unique<Decoder>(bundle, std::move(dense), std::move(experts),
                                            Selector(plan.selector), plan.settings.context,
                                            std::move(parallel));
  if (plan.settings.residency == Residency::kResident) parts.decoder->load_cached(progress);
  return_free_heap();
  return parts;
}

}  // namespace moe_mobile
