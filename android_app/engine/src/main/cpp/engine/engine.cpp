// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#include "engine/engine.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "base/heap.h"
#include "engine/prepare.h"
#include "engine/program_places.h"
#include "engine/slot_places.h"
#include "engine/store_key.h"
#include "metrics/json.h"
#include "metrics/stopwatch.h"

namespace moe_mobile {
namespace {

// What XNNPACK and ExecuTorch allocate beside the weights: each method's planned inputs and
// outputs, and one shared workspace, which holds about as much again for the largest batch.
uint64_t activation_bytes(const Manifest& manifest) {
  const uint64_t heads = uint64_t{manifest.attention.num_heads} * manifest.attention.head_dim;
  const uint64_t hidden = manifest.hidden_size;
  const uint64_t widest = std::max<uint64_t>(
      {heads * 3 + hidden, 3 * hidden + heads + 3 * uint64_t{manifest.dense_intermediate_size},
       3 * uint64_t{manifest.moe.intermediate_size} + 2 * hidden});
  return 2 * sizeof(float) * (manifest.max_batch * widest + manifest.vocab_size);
}

// Whole programs are read beside the places they are then loaded into: as many at once as a token
// or the read lanes ask for.
uint64_t staging_bytes(const Manifest& manifest, unsigned lanes, uint64_t slots) {
  const uint64_t reads = std::max<uint64_t>(manifest.moe.top_k, 2 * uint64_t{lanes});
  return std::min(reads, slots) * manifest.memory.expert_bytes;
}

void require_version(const Manifest& manifest, const std::string& directory) {
  if (manifest.delegate_version != MOE_EXECUTORCH_VERSION)
    throw Error(ErrorCode::kUnsupported, directory + "/bundle.json",
                "the bundle was lowered with ExecuTorch " + manifest.delegate_version +
                    ", and this engine has " MOE_EXECUTORCH_VERSION,
                "Export the model again with this version of moe-mobile.");
}

}  // namespace

std::unique_ptr<Engine> Engine::open(const std::string& directory, const EngineSettings& settings,
                                     const Progress& progress, const Planned& planned) {
  Bundle bundle = Bundle::open(directory);
  require_version(bundle.manifest(), directory);
  std::unique_ptr<Engine> engine(new Engine(std::move(bundle), settings));
  engine->load(progress, planned);
  return engine;
}

Engine::Engine(Bundle bundle, const EngineSettings& settings)
    : bundle_(std::move(bundle)), settings_(settings), threads_(settings.threads) {
  settings_.threads = threads_.threads();
  if (settings_.context == 0)
    settings_.context = std::min(manifest().context_length, kDefaultContext);
  if (settings_.context > manifest().context_length)
    throw Error(ErrorCode::kUsage, Setting{"context"},
                std::to_string(settings_.context) + " positions are more than the model's " +
                    std::to_string(manifest().context_length),
                "Give a smaller context.");
}

void Engine::load(const Progress& progress, const Planned& planned) {
  const uint64_t available = available_memory();
  bundle_.verify_file(manifest().embedding.file);
  settings_.packed_dir = packed_directory(bundle_, settings_.packed_dir);
  settle_routing();
  open_store(available, progress);
  planned(plan_);

  auto dense = std::make_unique<DensePrograms>(bundle_, *store_, &arena_, progress);
  ExpertStream::Options options;
  options.lanes = settings_.lanes;
  options.moe_layers = manifest().num_moe_layers();
  options.overlap = settings_.overlap;
  auto places = make_places(progress, planned);
  options.cache = cache_options();
  auto experts = std::make_unique<ExpertStream>(std::move(places), options);
  if (settings_.residency == Residency::kResident) {
    std::vector<uint32_t> all(manifest().moe.num_experts);
    std::iota(all.begin(), all.end(), 0u);
    std::vector<std::vector<uint32_t>> layers(manifest().num_layers);
    for (uint32_t layer = 0; layer < manifest().num_layers; ++layer)
      if (manifest().layers[layer].experts) layers[layer] = all;
    experts->fill(layers, progress);
  }
  Router router = make_router();
  settings_.routing = router.routing().text;
  decoder_ =
      std::make_unique<Decoder>(bundle_, std::move(dense), std::move(experts), std::move(router),
                                settings_.context, threads_.parallel_for());
  return_free_heap();
}

void Engine::settle_routing() {
  requested_routing_ = settings_.routing;
  // A method may come out as exact routing; that does not depend on the cache.
  const bool exact = !resolve_routing(parse_routing(settings_.routing), router_spec(),
                                      manifest().moe_layers_end(), 0)
                          .lossy();
  if (settings_.pool == Pool::kAuto) settings_.pool = exact ? Pool::kGlobal : Pool::kPerLayer;
  InitialCache& initial = settings_.initial_cache;
  const bool resident = settings_.residency == Residency::kResident;
  if (initial == InitialCache::kAuto)
    initial = exact || resident ? InitialCache::kWarm : InitialCache::kPrompt;
  if (resident && initial != InitialCache::kWarm)
    throw Error(ErrorCode::kUsage, Setting{"initial_cache"},
                "all experts are in memory, so the cache cannot begin with less",
                "Leave it out, or choose residency slots.");
  profile_.resize(manifest().num_layers);
  for (const auto& [layer, experts] : settings_.cache_profile) {
    const auto refuse = [layer = layer](const std::string& cause) {
      throw Error(ErrorCode::kUsage, Setting{"cache_profile"},
                  "layer " + std::to_string(layer) + cause,
                  "Record the profile from a trace of this model.");
    };
    if (layer >= manifest().num_layers || !manifest().layers[layer].experts)
      refuse(" of the model has no experts");
    std::vector<bool> seen(manifest().moe.num_experts);
    for (const uint32_t expert : experts) {
      if (expert >= seen.size()) refuse(" has no expert " + std::to_string(expert));
      if (seen[expert]) refuse(" names expert " + std::to_string(expert) + " twice");
      seen[expert] = true;
    }
    profile_[layer] = experts;
  }
}

RouterSpec Engine::router_spec() const {
  RouterSpec spec = manifest().moe;
  if (spec.bias.empty()) return spec;
  // The router counts all layers of the model.
  std::vector<float> bias(size_t{manifest().moe_layers_end()} * spec.num_experts);
  auto row = spec.bias.begin();
  for (uint32_t layer = 0; layer < manifest().num_layers; ++layer) {
    if (!manifest().layers[layer].experts) continue;
    std::copy_n(row, spec.num_experts, bias.begin() + ptrdiff_t{layer} * spec.num_experts);
    row += spec.num_experts;
  }
  spec.bias = std::move(bias);
  return spec;
}

Router Engine::make_router() const {
  const double layers = std::max(1u, manifest().num_moe_layers());
  return Router(router_spec(), parse_routing(requested_routing_), manifest().moe_layers_end(),
                static_cast<double>(plan_.slots) / layers);
}

LogicalCacheOptions Engine::cache_options() const {
  LogicalCacheOptions options;
  options.layers = manifest().num_layers;
  options.experts = manifest().moe.num_experts;
  options.global = settings_.pool == Pool::kGlobal;
  options.capacity = static_cast<uint32_t>(options.global ? plan_.slots : plan_.slots_per_layer);
  options.eviction = parse_eviction(settings_.eviction);
  return options;
}

void Engine::open_store(uint64_t available, const Progress& progress) {
  const auto open = [&](bool experts) {
    PrepareOptions options;
    options.packed_dir = settings_.packed_dir;
    options.experts = experts;
    if (!is_prepared(bundle_, settings_.packed_dir, experts)) {
      prepare(bundle_, options, progress);
      return_free_heap();
    }
    store_ = std::make_unique<PackedStore>(
        bundle_, settings_.packed_dir,
        PackedStore::Options{settings_.direct, experts, settings_.scratch_dir});
  };
  // The dense methods tell all sizes: a budget is refused before thousands of experts are packed.
  open(/*experts=*/false);
  plan_ = plan_for(settings_.residency, available);
  if (settings_.residency == Residency::kPrograms) return;
  try {
    open(/*experts=*/true);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kUnsupported) throw;
    fall_back(error);  // an expert that fits no slot
    plan_ = plan_for(settings_.residency, available);
  }
}

void Engine::fall_back(const Error& cause) {
  bool possible = settings_.residency == Residency::kSlots;
  for (uint32_t layer = 0; layer < manifest().num_layers; ++layer)
    possible = possible && (!manifest().layers[layer].experts || bundle_.has_shard(layer));
  if (!possible) throw cause;
  fallbacks_.push_back(std::string("residency programs instead of slots: ") + cause.what());
  settings_.residency = Residency::kPrograms;
}

MemoryPlan Engine::plan_for(Residency residency, uint64_t available) const {
  MemoryPlanInputs inputs;
  inputs.budget = parse_budget(residency == Residency::kResident ? "100%" : settings_.cache);
  inputs.slot_bytes = store_->slot_bytes();
  // Of a bundle whose experts are laid out differently, the template may be the smallest.
  if (residency == Residency::kPrograms)
    inputs.slot_bytes =
        std::max(inputs.slot_bytes, align_up(manifest().memory.expert_bytes, kBlobAlignment));
  inputs.moe_layers = manifest().num_moe_layers();
  inputs.num_experts = uint64_t{inputs.moe_layers} * manifest().moe.num_experts;
  inputs.top_k = manifest().moe.top_k;
  inputs.dense_bytes = store_->dense_bytes();
  inputs.kv_bytes = AttentionMixer::state_bytes_for(manifest(), settings_.context);
  inputs.arena_bytes =
      Decoder::buffer_bytes(manifest(), settings_.context) + activation_bytes(manifest());
  if (residency == Residency::kPrograms)
    inputs.arena_bytes += staging_bytes(manifest(), settings_.lanes, inputs.num_experts);
  inputs.available_bytes = available;
  inputs.allow_below_cycle = settings_.allow_below_cycle;
  inputs.per_layer = settings_.pool == Pool::kPerLayer;
  return plan_memory(inputs);
}

std::unique_ptr<ExpertPlaces> Engine::make_places(const Progress& progress,
                                                  const Planned& planned) {
  const auto slots_planned = static_cast<uint32_t>(plan_.slots);
  if (settings_.residency != Residency::kPrograms) {
    try {
      auto slots = std::make_unique<SlotPlaces>(bundle_, *store_, slots_planned, &arena_, progress);
      direct_ = store_->direct();
      return slots;
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kRuntime) throw;
      fall_back(error);
      plan_ = plan_for(settings_.residency, plan_.available_bytes);
      planned(plan_);
    }
  }
  auto programs = std::make_unique<ProgramPlaces>(bundle_, static_cast<uint32_t>(plan_.slots),
                                                  &arena_, settings_.direct);
  direct_ = programs->direct();
  return programs;
}

void Engine::reset() {
  decoder_->clear();
  if (settings_.initial_cache == InitialCache::kPrompt) decoder_->experts().forget_all();
  steps_.clear();
  ++conversation_;
}

void Engine::prefill(Span<const uint32_t> tokens, const Progress& progress) {
  const bool begins = position() == 0;
  TokenMetrics metrics = decoder_->prefill(tokens, progress);
  if (begins) metrics.total_ns += begin_decoding();
  steps_.push_back({true, static_cast<uint32_t>(tokens.size()), metrics});
}

void Engine::decode(uint32_t token) {
  if (position() == 0) begin_decoding();
  steps_.push_back({false, 1, decoder_->decode(token)});
}

uint64_t Engine::begin_decoding() {
  Stopwatch watch;
  if (settings_.initial_cache == InitialCache::kCold) decoder_->experts().forget_all();
  if (settings_.initial_cache == InitialCache::kProfile)
    decoder_->experts().fill(profile_, ignore_progress);
  return watch.lap();
}

const float* Engine::logits() {
  if (steps_.empty())
    throw Error(ErrorCode::kUsage, Setting{"token_ids"}, "there are no tokens",
                "Give at least one.");
  return decoder_->logits(&steps_.back().metrics);
}

bool Engine::is_end(uint32_t token) const {
  const auto& ends = manifest().eos_token_ids;
  return std::find(ends.begin(), ends.end(), token) != ends.end();
}

nlohmann::json to_json(const Step& step) {
  nlohmann::json json = step.metrics;
  json["phase"] = step.prefill ? "prefill" : "decode";
  json["count"] = step.tokens;
  return json;
}

nlohmann::json Engine::stats() const {
  nlohmann::json tokens = nlohmann::json::array();
  std::vector<TokenMetrics> all;
  std::vector<TokenMetrics> decoded;
  uint64_t count = 0;
  for (const Step& step : steps_) {
    tokens.push_back(to_json(step));
    all.push_back(step.metrics);
    if (!step.prefill) decoded.push_back(step.metrics);
    count += step.tokens;
  }
  RunMetrics totals = aggregate(all);
  const RunMetrics latencies = aggregate(decoded);  // a batch of a prompt is not a token
  totals.tokens = count;
  totals.p50_ns = latencies.p50_ns;
  totals.p95_ns = latencies.p95_ns;
  totals.p99_ns = latencies.p99_ns;
  return {{"totals", totals}, {"tokens", tokens}};
}

nlohmann::json to_json(const MemoryPlan& plan) {
  return {{"experts_budget_bytes", plan.experts_budget_bytes},
          {"slots", plan.slots},
          {"slots_per_layer", plan.slots_per_layer},
          {"slot_bytes", plan.slot_bytes},
          {"num_experts", plan.num_experts},
          {"dense_bytes", plan.dense_bytes},
          {"kv_bytes", plan.kv_bytes},
          {"arena_bytes", plan.arena_bytes},
          {"total_bytes", plan.total_bytes},
          {"token_cycle_slots", plan.token_cycle_slots},
          {"available_bytes", plan.available_bytes},
          {"text", describe(plan)}};
}

nlohmann::json Engine::info() const {
  const Manifest& model = manifest();
  return {{"bundle_hash", model.bundle_hash},
          {"model",
           {{"name", model.name},
            {"family", model.family},
            {"vocab_size", model.vocab_size},
            {"hidden_size", model.hidden_size},
            {"num_layers", model.num_layers},
            {"context_length", model.context_length},
            {"num_experts", model.moe.num_experts},
            {"top_k", model.moe.top_k},
            {"num_parameters", model.num_parameters},
            {"eos_token_ids", model.eos_token_ids},
            {"quantization",
             {{"experts", model.quantization.experts},
              {"dense", model.quantization.dense},
              {"head", model.quantization.head},
              {"embedding", model.quantization.embedding},
              {"group_size", model.quantization.group_size}}}}},
          {"plan", to_json(plan_)},
          {"settings", to_json(settings_)},
          {"routing",
           {{"requested", requested_routing_},
            {"resolved", settings_.routing},
            {"note", decoder_->routing().note},
            {"lossy", decoder_->routing().lossy()}}},
          {"direct_io", direct_},
          {"threads", settings_.threads},
          {"fallbacks", fallbacks_},
          {"store_key", packed_store_key()},
          {"executorch", MOE_EXECUTORCH_VERSION},
          {"moe_mobile", MOE_MOBILE_VERSION}};
}

double log_probability(const float* logits, uint32_t vocab_size, uint32_t token) {
  double largest = logits[0];
  for (uint32_t i = 1; i < vocab_size; ++i) largest = std::max<double>(largest, logits[i]);
  double sum = 0;
  for (uint32_t i = 0; i < vocab_size; ++i) sum += std::exp(logits[i] - largest);
  return logits[token] - largest - std::log(sum);
}

}  // namespace moe_mobile
