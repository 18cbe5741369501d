// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "plan/engine_plan.h"

#include <algorithm>
#include <numeric>

#include "base/file.h"
#include "decoder/mixers.h"

namespace moe_mobile {
namespace {

// The most that the decoder allocates, apart from its mixers' states: for a prompt that fills the
// context.
uint64_t buffer_bytes(const Manifest& manifest, uint32_t context) {
  const uint64_t hidden = manifest.hidden_size;
  const MixerColumns mixer = widest_mixer(manifest);
  const uint64_t row = hidden + mixer.inputs + mixer.outputs + manifest.moe.num_experts +
                       2 * manifest.moe.top_k * hidden;
  return sizeof(float) *
             (manifest.max_batch * row + (uint64_t{context} + 2) * hidden + manifest.vocab_size) +
         sizeof(uint32_t) * uint64_t{context} * manifest.num_moe_layers() * manifest.moe.top_k +
         Mixers::rope_bytes(manifest, context);
}

// What XNNPACK and ExecuTorch allocate apart from the weights: each method's planned inputs and
// outputs, and one shared workspace, about as large for the largest batch.
uint64_t activation_bytes(const Manifest& manifest) {
  const uint64_t hidden = manifest.hidden_size;
  const MixerColumns mixer = widest_mixer(manifest);
  const uint64_t widest = std::max<uint64_t>(
      {2 * mixer.inputs + hidden,
       3 * hidden + mixer.outputs + 3 * uint64_t{manifest.dense_intermediate_size},
       3 * uint64_t{manifest.moe.intermediate_size} + 2 * hidden});
  return 2 * sizeof(float) * (manifest.max_batch * widest + manifest.vocab_size);
}

// Whole programs are read into memory of their own and then loaded into places: up to as many at
// once as a token selects or as there are read lanes.
uint64_t staging_bytes(const Manifest& manifest, unsigned lanes, uint64_t slots) {
  const uint64_t reads = std::max<uint64_t>(manifest.moe.top_k, 2 * uint64_t{lanes});
  return std::min(reads, slots) * manifest.memory.expert_bytes;
}

// What ExecuTorch and XNNPACK keep of a loaded method, apart from its weights. 25 KiB for an expert
// of Qwen3-30B-A3B's shape.
constexpr uint64_t kMethodBytes = 32 << 10;
// What opening any bundle takes: tables, stacks of threads, and what the allocator keeps.
constexpr uint64_t kOtherBytes = 8 << 20;

// A dense program is read into memory of its own before its weights are loaded.
uint64_t loading_bytes(const Manifest& manifest) {
  uint64_t bytes = manifest.head.bytes;
  for (const LayerSpec& layer : manifest.layers) bytes = std::max(bytes, layer.dense.bytes);
  return bytes;
}

void check_profile(const EngineSettings& settings, const Manifest& manifest) {
  for (const auto& [layer, experts] : settings.cache_profile) {
    const auto refuse = [layer = layer](const std::string& cause) {
      throw Error(ErrorCode::kUsage, Setting{"cache_profile"},
                  "layer " + std::to_string(layer) + cause,
                  "Record the profile from a trace of this model.");
    };
    if (layer >= manifest.num_layers || !manifest.layers[layer].experts)
      refuse(" of the model has no experts");
    std::vector<bool> seen(manifest.moe.num_experts);
    for (const uint32_t expert : experts) {
      if (expert >= seen.size()) refuse(" has no expert " + std::to_string(expert));
      if (seen[expert]) refuse(" names expert " + std::to_string(expert) + " twice");
      seen[expert] = true;
    }
  }
}

// The precisions that at least one rank uses.
std::vector<SlotClassInput> slot_classes(const EngineSettings& settings, const Manifest& manifest,
                                         const StoreFacts& store) {
  std::vector<SlotClassInput> classes;
  for (uint32_t variant = 0; variant < ExpertKey::kVariants; ++variant) {
    const uint32_t ranks = settings.precision.ranks(variant, manifest.moe.top_k);
    if (ranks == 0) continue;
    uint64_t bytes = store.slot_bytes[variant];
    // If experts are laid out differently, the store's slot may be the smallest.
    if (settings.residency == Residency::kPrograms)
      bytes = std::max(bytes, align_up(manifest.expert_bytes(variant), kBlobAlignment));
    classes.push_back({variant, manifest.precisions[variant].quantization, ranks, bytes});
  }
  return classes;
}

// A note on the precision for the reader: "" for the bundle's own precision.
std::string precision_note(const Precision& precision, const Manifest& manifest) {
  const uint32_t top_k = manifest.moe.top_k;
  if (precision.ranks(1, top_k) == 0) return "";
  const std::string& low = manifest.precisions[1].quantization;
  if (precision.full_ranks == 0) return "all experts run in " + low;
  return "the best " + std::to_string(precision.full_ranks) + " of " + std::to_string(top_k) +
         " experts run in " + manifest.precisions[0].quantization + ", the others in " + low;
}

MemoryPlan plan_memory_of(const EngineSettings& settings, const Manifest& manifest,
                          const StoreFacts& store, uint64_t available_bytes) {
  MemoryPlanInputs inputs;
  inputs.budget = settings.cache;
  if (settings.residency == Residency::kResident) inputs.budget = {Budget::Kind::kPercent, 0, 100};
  inputs.classes = slot_classes(settings, manifest, store);
  inputs.moe_layers = manifest.num_moe_layers();
  inputs.experts = manifest.moe.num_experts;
  inputs.dense_bytes = store.dense_bytes;
  inputs.kv_bytes = Mixers::state_bytes(manifest, settings.context);
  inputs.arena_bytes =
      buffer_bytes(manifest, settings.context) + activation_bytes(manifest) + kOtherBytes;
  if (settings.residency == Residency::kPrograms)
    inputs.arena_bytes +=
        staging_bytes(manifest, settings.lanes, uint64_t{inputs.moe_layers} * inputs.experts);
  inputs.method_bytes = kMethodBytes;
  inputs.loading_bytes = loading_bytes(manifest);
  inputs.available_bytes = available_bytes;
  inputs.allow_below_cycle = settings.allow_below_cycle;
  inputs.per_layer = settings.pool == Pool::kPerLayer;
  return plan_memory(inputs);
}

// All but the routing, which depends on the capacity.
SelectorSettings selector_settings(const EnginePlan& plan, const Manifest& manifest) {
  const EngineSettings& settings = plan.settings;
  SelectorSettings selector;
  selector.router = manifest.moe;
  selector.layers = manifest.moe_layers();
  selector.global = settings.pool == Pool::kGlobal;
  for (const SlotClassPlan& c : plan.memory.classes) {
    uint32_t& capacity = c.variant == 0 ? selector.capacity : selector.low_capacity;
    capacity = static_cast<uint32_t>(selector.global ? c.slots : c.slots_per_layer);
  }
  selector.precision = settings.precision;
  selector.eviction = settings.eviction;
  selector.initial = settings.initial_cache;
  std::vector<uint32_t> all(manifest.moe.num_experts);
  std::iota(all.begin(), all.end(), 0u);
  for (const uint32_t layer : selector.layers) {
    const auto best = settings.cache_profile.find(layer);
    if (settings.residency == Residency::kResident) {
      selector.profile.push_back(all);
    } else if (best != settings.cache_profile.end()) {
      selector.profile.push_back(best->second);
    } else {
      selector.profile.emplace_back();
    }
  }
  return selector;
}

}  // namespace

void check_precision(const Precision& precision, uint32_t top_k,
                     const std::vector<ExpertPrecision>& precisions) {
  if (precision.full_ranks == Precision::kAllRanks) return;
  if (precision.full_ranks >= top_k)
    throw Error(ErrorCode::kUsage, Setting{"precision"},
                "a token has " + std::to_string(top_k) + " experts, so " +
                    in_quotes(to_text(precision)) + " leaves none in low precision",
                "Give a smaller number, or full.");
  if (precisions.size() < ExpertKey::kVariants)
    throw Error(ErrorCode::kUsage, Setting{"precision"},
                "the model holds its experts in " + precisions[0].quantization + " only",
                "Export the bundle with a second precision, or set `precision` to full.");
}

EngineSettings resolve_settings(const EngineSettings& settings, const Manifest& manifest) {
  check_settings(settings);
  EngineSettings resolved = settings;
  if (settings.context == 0) resolved.context = std::min(manifest.context_length, kDefaultContext);
  if (settings.context > manifest.context_length)
    throw Error(ErrorCode::kUsage, Setting{"context"},
                std::to_string(settings.context) + " positions are more than the model's " +
                    std::to_string(manifest.context_length),
                "Give a smaller context.");
  // A method may turn out to be exact routing; that does not depend on the cache.
  const bool exact =
      !resolve_routing(settings.routing, manifest.moe, manifest.moe_layers_end(), 0).lossy();
  const bool resident = settings.residency == Residency::kResident;
  if (settings.pool == Pool::kAuto) resolved.pool = exact ? Pool::kGlobal : Pool::kPerLayer;
  if (settings.initial_cache == InitialCache::kAuto)
    resolved.initial_cache = exact || resident ? InitialCache::kWarm : InitialCache::kPrompt;
  if (resident && resolved.initial_cache != InitialCache::kWarm)
    throw Error(ErrorCode::kUsage, Setting{"initial_cache"},
                "all experts are in memory, so the cache cannot begin with less",
                "Leave it out, or set `residency` to slots.");
  check_profile(settings, manifest);
  check_precision(settings.precision, manifest.moe.top_k, manifest.precisions);
  return resolved;
}

EnginePlan plan_engine(const EngineSettings& settings, const Manifest& manifest,
                       const StoreFacts& store, uint64_t available_bytes) {
  EnginePlan plan;
  plan.settings = settings;
  if (store.no_slots && plan.settings.residency != Residency::kPrograms) {
    // No fallback if all experts must stay in memory, or if their programs are gone.
    if (plan.settings.residency == Residency::kResident || !store.has_programs)
      throw Error(*store.no_slots);
    plan.settings.residency = Residency::kPrograms;
    plan.fallbacks.push_back(std::string("residency programs instead of slots: ") +
                             store.no_slots->what());
  }
  plan.memory = plan_memory_of(plan.settings, manifest, store, available_bytes);

  plan.selector = selector_settings(plan, manifest);
  plan.routing = resolve_routing(settings.routing, manifest.moe, manifest.moe_layers_end(),
                                 plan.selector.capacity_per_layer());
  plan.settings.routing = plan.selector.routing = plan.routing.options;
  plan.note = precision_note(settings.precision, manifest);
  plan.lossy = plan.routing.lossy() || !plan.note.empty();
  if (!plan.routing.note.empty())
    plan.note = plan.routing.note + (plan.note.empty() ? "" : "; " + plan.note);
  return plan;
}

}  // namespace moe_mobile
