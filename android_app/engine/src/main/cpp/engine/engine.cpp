// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "engine/engine.h"

#include <atomic>
#include <utility>

#include "base/error.h"
#include "base/heap.h"
#include "base/mutex.h"
#include "engine/build.h"
#include "engine/call_gate.h"
#include "engine/cancellation.h"
#include "engine/measure.h"
#include "engine/packed_store.h"
#include "executorch/thread_pool.h"
#include "metrics/stopwatch.h"

namespace moe_mobile {
namespace {

Bundle open_bundle(const std::string& directory) {
  Bundle bundle = Bundle::open(directory);
  const std::string& version = bundle.manifest().executorch_version;
  if (version != MOE_EXECUTORCH_VERSION)
    throw Error(ErrorCode::kUnsupported, directory + "/bundle.json",
                "the bundle was lowered with ExecuTorch " + version +
                    ", and this engine has " MOE_EXECUTORCH_VERSION,
                "Export the model again with this version of moe-mobile.");
  bundle.verify_file(bundle.manifest().embedding.file);
  return bundle;
}

ModelInfo model_info(const Manifest& manifest) {
  ModelInfo info;
  info.name = manifest.name;
  info.family = manifest.family;
  info.vocab_size = manifest.vocab_size;
  info.hidden_size = manifest.hidden_size;
  info.num_layers = manifest.num_layers;
  info.num_moe_layers = manifest.num_moe_layers();
  info.context_length = manifest.context_length;
  info.num_experts = manifest.moe.num_experts;
  info.top_k = manifest.moe.top_k;
  info.num_parameters = manifest.num_parameters;
  info.eos_token_ids = manifest.eos_token_ids;
  info.quantization = manifest.quantization;
  info.expert_precisions = manifest.precisions;
  return info;
}

class EngineImpl final : public Engine {
 public:
  EngineImpl(const std::string& directory, EngineSettings settings, const Progress& progress,
             const Planned& planned);

  const ModelInfo& model() const override { return model_; }
  EngineInfo info() const override;
  void reset() override;
  void begin_turn() override;
  uint64_t conversation() const override { return conversation_; }
  uint32_t position() const override { return decoder().position(); }
  uint32_t context() const override { return decoder().context(); }
  void prefill(Span<const uint32_t> tokens, const Progress& progress) override;
  void decode(uint32_t token) override;
  const float* logits() override;
  Stats stats() const override;
  std::vector<float> trace(Span<const uint32_t> tokens, const Progress& progress) override;
  void replay_router(Span<const float> logits) override;
  double cache_fill() const override;
  MissCosts measure_misses(uint32_t count, uint32_t seed,
                           const std::function<void()>& before_each) override;
  void cancel() override { ++cancels_; }
  uint64_t cancels() const override { return cancels_; }
  void resize(const Budget& budget) override EXCLUDES(plan_mutex_);
  ResidencySnapshot residency() const override { return parts_.residency->snapshot(); }

 private:
  Decoder& decoder() const { return *parts_.decoder; }
  // prefill() within a call.
  void append_prompt(Span<const uint32_t> tokens, const Progress& progress);
  // Memory for a plan with this budget, including what this engine holds now.
  uint64_t available_to_plan(const Budget& budget) const REQUIRES(plan_mutex_);

  const Bundle bundle_;
  const ModelInfo model_;
  const ThreadPoolLease threads_;
  StoreFacts facts_;
  mutable Mutex plan_mutex_;
  // From resolve_settings(): only the cache and values of the routing may be automatic.
  EngineSettings settings_ GUARDED_BY(plan_mutex_);
  EnginePlan plan_ GUARDED_BY(plan_mutex_);
  EngineParts parts_;
  std::vector<Step> steps_;
  uint64_t conversation_ = 0;
  std::atomic<uint64_t> cancels_{0};
  mutable CallGate gate_;  // to the selector and the experts
};

EngineImpl::EngineImpl(const std::string& directory, EngineSettings settings,
                       const Progress& progress, const Planned& planned)
    : bundle_(open_bundle(directory)),
      model_(model_info(bundle_.manifest())),
      threads_(settings.threads),
      settings_(std::move(settings)) {
  const uint64_t available = available_memory();
  settings_.threads = threads_.threads();
  settings_.packed_dir = packed_directory(bundle_, settings_.packed_dir);
  // Wrong settings are reported before the bundle is prepared, which may take long.
  settings_ = resolve_settings(settings_, bundle_.manifest());
  facts_ = read_store_facts(bundle_, settings_, progress);
  for (;;) {
    try {
      plan_ = plan_engine(settings_, bundle_.manifest(), facts_, available);
      auto store = open_store(plan_, bundle_, progress);
      planned(plan_.memory);
      parts_ = build(plan_, bundle_, std::move(store), threads_.parallel_for(), progress);
      return;
    } catch (const SlotsUnusable& cause) {
      facts_.no_slots = cause;  // the next plan has no slots, so this happens once
    }
  }
}

uint64_t EngineImpl::available_to_plan(const Budget& budget) const {
  std::vector<uint32_t> held(ExpertKey::kVariants);
  for (uint32_t variant = 0; variant < held.size(); ++variant)
    held[variant] = parts_.residency->places(variant);
  return available_to_resize(budget, plan_.memory, held, available_memory());
}

void EngineImpl::resize(const Budget& budget) {
  const MutexLock lock(&plan_mutex_);
  if (plan_.settings.residency == Residency::kResident)
    throw Error(ErrorCode::kUsage, Setting{"cache"},
                "with residency resident all experts stay in memory",
                "Open the bundle with `residency` slots.");
  EngineSettings settings = settings_;
  settings.cache = budget;
  EnginePlan plan = plan_engine(settings, bundle_.manifest(), facts_, available_to_plan(budget));
  // The router keeps the values that were resolved for the cache at opening.
  plan.routing = plan_.routing;
  plan.settings.routing = plan_.settings.routing;
  settings_ = std::move(settings);
  plan_ = std::move(plan);
  gate_.post([this, capacity = plan_.selector.capacity, low = plan_.selector.low_capacity,
              places = plan_.memory.slots_by_variant(bundle_.manifest().precisions.size()),
              programs = plan_.settings.residency == Residency::kPrograms] {
    decoder().resize(capacity, low, places);
    // Any of the free places may have unloaded its program. Counting none of them may refuse a
    // larger budget too early, but never takes more memory than there is.
    for (uint32_t variant = 0; variant < places.size(); ++variant)
      parts_.residency->limit_places(variant, programs ? 0 : places[variant]);
    return_free_heap();
  });
}

EngineInfo EngineImpl::info() const {
  const MutexLock lock(&plan_mutex_);
  EngineInfo info;
  info.bundle_hash = bundle_.manifest().bundle_hash;
  info.model = model_;
  info.plan = plan_.memory;
  info.settings = plan_.settings;
  info.routing = {to_text(settings_.routing), plan_.routing.text, plan_.note, plan_.lossy};
  info.direct_io = parts_.direct_io;
  info.fallbacks = plan_.fallbacks;
  info.store_key = packed_store_key();
  info.executorch = MOE_EXECUTORCH_VERSION;
  info.moe_mobile = MOE_MOBILE_VERSION;
  return info;
}

void EngineImpl::reset() {
  const CallGate::Call call(&gate_);
  decoder().clear();
  steps_.clear();
  ++conversation_;
}

void EngineImpl::begin_turn() {
  const CallGate::Call call(&gate_);
  steps_.clear();
  ++conversation_;
}

void EngineImpl::prefill(Span<const uint32_t> tokens, const Progress& progress) {
  const CallGate::Call call(&gate_);
  append_prompt(tokens, progress);
}

void EngineImpl::append_prompt(Span<const uint32_t> tokens, const Progress& progress) {
  const Cancellation cancellation(this);
  const TokenMetrics metrics =
      decoder().prefill(tokens, [&](const char* stage, uint64_t done, uint64_t total) {
        cancellation.check();
        gate_.pass();
        progress(stage, done, total);
      });
  steps_.push_back({true, static_cast<uint32_t>(tokens.size()), metrics});
}

void EngineImpl::decode(uint32_t token) {
  const CallGate::Call call(&gate_);
  steps_.push_back({false, 1, decoder().decode(token)});
}

const float* EngineImpl::logits() {
  const CallGate::Call call(&gate_);
  if (steps_.empty())
    throw Error(ErrorCode::kUsage, Setting{"token_ids"}, "there are no tokens",
                "Give at least one.");
  return decoder().logits(&steps_.back().metrics);
}

Stats EngineImpl::stats() const {
  Stats stats;
  stats.steps = steps_;
  std::vector<TokenMetrics> all;
  std::vector<TokenMetrics> decoded;
  uint64_t count = 0;
  for (const Step& step : steps_) {
    all.push_back(step.metrics);
    if (!step.prefill) decoded.push_back(step.metrics);
    count += step.tokens;
  }
  stats.totals = aggregate(all);
  stats.totals.tokens = count;
  const RunMetrics latencies = aggregate(decoded);  // a batch of a prompt is not a token
  stats.totals.p50_ns = latencies.p50_ns;
  stats.totals.p95_ns = latencies.p95_ns;
  stats.totals.p99_ns = latencies.p99_ns;
  return stats;
}

std::vector<float> EngineImpl::trace(Span<const uint32_t> tokens, const Progress& progress) {
  const CallGate::Call call(&gate_);
  std::vector<float> logits;
  struct Recording {
    Decoder& decoder;
    ~Recording() { decoder.record_router(nullptr); }
  } recording{decoder()};
  recording.decoder.record_router(&logits);
  append_prompt(tokens, progress);
  return logits;
}

void EngineImpl::replay_router(Span<const float> logits) {
  decoder().replay_router(logits.empty() ? nullptr : logits.data());
}

double EngineImpl::cache_fill() const {
  const CallGate::Call call(&gate_);
  double size = 0, capacity = 0;
  for (const LogicalCache& cache : decoder().selector().caches()) {
    const LogicalCacheOptions& options = cache.options();
    size += cache.size();
    capacity += static_cast<double>(options.capacity) * (options.global ? 1 : options.layers);
  }
  return capacity == 0 ? 1 : size / capacity;
}

MissCosts EngineImpl::measure_misses(uint32_t count, uint32_t seed,
                                     const std::function<void()>& before_each) {
  {
    const MutexLock lock(&plan_mutex_);
    if (plan_.settings.residency == Residency::kPrograms)
      throw Error(ErrorCode::kUsage, Setting{"residency"}, "only slots can be measured",
                  "Open the bundle with `residency` slots.");
  }
  if (!bundle_.has_all_shards())
    throw Error(ErrorCode::kIo, bundle_.directory(),
                "the experts' programs are missing (preparing with `consume` deletes them), so "
                "loading them cannot be measured",
                "Copy or export the bundle again.");
  const CallGate::Call call(&gate_);
  const Cancellation cancellation(this);
  const MissCosts costs =
      moe_mobile::measure_misses(bundle_, &decoder().experts(), count, seed, [&] {
        cancellation.check();
        before_each();
      });
  decoder().load_cached([&](const char*, uint64_t, uint64_t) { cancellation.check(); });
  return costs;
}

}  // namespace

std::unique_ptr<Engine> Engine::open(const std::string& directory, const EngineSettings& settings,
                                     const Progress& progress, const Planned& planned) {
  return std::make_unique<EngineImpl>(directory, settings, progress, planned);
}

}  // namespace moe_mobile
