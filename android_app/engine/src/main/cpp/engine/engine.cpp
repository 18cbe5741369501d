// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "engine/engine.h"

#include <utility>

#include "base/error.h"
#include "engine/build.h"
#include "engine/measure.h"
#include "engine/store_key.h"
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
  return info;
}

class EngineImpl final : public Engine {
 public:
  EngineImpl(const std::string& directory, EngineSettings settings, const Progress& progress,
             const Planned& planned);

  const ModelInfo& model() const override { return model_; }
  EngineInfo info() const override;
  void reset() override;
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
  MissCosts measure_misses(uint32_t count, uint32_t seed) override;

 private:
  Decoder& decoder() const { return *parts_.decoder; }

  const Bundle bundle_;
  const ModelInfo model_;
  const ThreadPoolLease threads_;
  EnginePlan plan_;
  EngineParts parts_;
  std::vector<Step> steps_;
  uint64_t conversation_ = 0;
};

EngineImpl::EngineImpl(const std::string& directory, EngineSettings settings,
                       const Progress& progress, const Planned& planned)
    : bundle_(open_bundle(directory)),
      model_(model_info(bundle_.manifest())),
      threads_(settings.threads) {
  const uint64_t available = available_memory();
  settings.threads = threads_.threads();
  settings.packed_dir = packed_directory(bundle_, settings.packed_dir);
  // Wrong settings are reported before the bundle is prepared, which may take long.
  resolve_settings(settings, bundle_.manifest());
  StoreFacts facts = read_store_facts(bundle_, settings, progress);
  for (;;) {
    try {
      plan_ = plan_engine(settings, bundle_.manifest(), facts, available);
      auto store = open_store(plan_, bundle_, progress);
      planned(plan_.memory);
      parts_ = build(plan_, bundle_, std::move(store), threads_.parallel_for(), progress);
      return;
    } catch (const SlotsUnusable& cause) {
      facts.no_slots = cause;  // the next plan has none, so this happens once
    }
  }
}

EngineInfo EngineImpl::info() const {
  EngineInfo info;
  info.bundle_hash = bundle_.manifest().bundle_hash;
  info.model = model_;
  info.plan = plan_.memory;
  info.settings = plan_.settings;
  info.routing = {plan_.requested_routing, plan_.routing.text, plan_.routing.note,
                  plan_.routing.lossy()};
  info.direct_io = parts_.direct_io;
  info.fallbacks = plan_.fallbacks;
  info.store_key = packed_store_key();
  info.executorch = MOE_EXECUTORCH_VERSION;
  info.moe_mobile = MOE_MOBILE_VERSION;
  return info;
}

void EngineImpl::reset() {
  decoder().clear();
  steps_.clear();
  ++conversation_;
}

void EngineImpl::prefill(Span<const uint32_t> tokens, const Progress& progress) {
  const TokenMetrics metrics = decoder().prefill(tokens, progress);
  steps_.push_back({true, static_cast<uint32_t>(tokens.size()), metrics});
}

void EngineImpl::decode(uint32_t token) { steps_.push_back({false, 1, decoder().decode(token)}); }

const float* EngineImpl::logits() {
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
  std::vector<float> logits;
  struct Recording {
    Decoder& decoder;
    ~Recording() { decoder.record_router(nullptr); }
  } recording{decoder()};
  recording.decoder.record_router(&logits);
  prefill(tokens, progress);
  return logits;
}

void EngineImpl::replay_router(Span<const float> logits) {
  decoder().replay_router(logits.empty() ? nullptr : logits.data());
}

double EngineImpl::cache_fill() const {
  const uint32_t pools = plan_.cache.global ? 1 : model_.num_moe_layers;
  const double capacity = static_cast<double>(plan_.cache.capacity) * pools;
  return capacity == 0 ? 1 : decoder().selector().cache().size() / capacity;
}

MissCosts EngineImpl::measure_misses(uint32_t count, uint32_t seed) {
  if (plan_.settings.residency == Residency::kPrograms)
    throw Error(ErrorCode::kUsage, Setting{"residency"}, "there are no slots to measure",
                "Open the bundle with residency slots.");
  decoder().forget_experts();  // it overwrites the first slot
  return moe_mobile::measure_misses(bundle_, &decoder().experts(), count, seed);
}

}  // namespace

std::unique_ptr<Engine> Engine::open(const std::string& directory, const EngineSettings& settings,
                                     const Progress& progress, const Planned& planned) {
  return std::make_unique<EngineImpl>(directory, settings, progress, planned);
}

}  // namespace moe_mobile
