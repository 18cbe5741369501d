// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/span.h"
#include "cache/memory_plan.h"
#include "decoder/sampler.h"
#include "engine/decoder.h"
#include "engine/packed_store.h"
#include "engine/progress.h"
#include "engine/settings.h"

namespace moe_mobile {

// What one step of the engine cost: a batch of prompt tokens, or one token decoded.
struct Step {
  bool prefill = false;
  uint32_t tokens = 1;
  TokenMetrics metrics;
};

// An open bundle, ready to run: the one class that all hosts (moe_runner, Python, the app, tests)
// use. It reads no environment variable and prints nothing. Not thread safe.
class Engine {
 public:
  // Told what will be taken before it is: after preparing, before loading.
  using Planned = std::function<void(const MemoryPlan&)>;
  // Verifies, prepares where needed, plans the memory, loads. Errors are moe_mobile::Error.
  static std::unique_ptr<Engine> open(const std::string& directory, const EngineSettings& settings,
                                      const Progress& progress, const Planned& planned);

  const Manifest& manifest() const { return bundle_.manifest(); }
  // As resolved: what the host left open is filled in.
  const EngineSettings& settings() const { return settings_; }
  // Resolved settings, plan, model facts, bundle hash, what fell back.
  nlohmann::json info() const;

  // Forgets the conversation and the statistics. What stays cached is settings().initial_cache's
  // matter.
  void reset();
  // Changes with every reset, so that whoever continues a conversation can tell that it is over.
  uint64_t conversation() const { return conversation_; }
  uint32_t position() const { return decoder_->position(); }
  uint32_t context() const { return decoder_->context(); }

  // Appends prompt tokens, in batches; `progress` may throw between them to stop.
  void prefill(Span<const uint32_t> tokens, const Progress& progress);
  // Appends one token as decoding does.
  void decode(uint32_t token);
  // Logits [vocab] that follow the last token appended.
  const float* logits();
  bool is_end(uint32_t token) const;

  // Steps since the last reset, and their totals: {"totals": {...}, "tokens": [...]}.
  const std::vector<Step>& steps() const { return steps_; }
  nlohmann::json stats() const;

  // For measurements.
  Decoder& decoder() { return *decoder_; }
  const Bundle& bundle() const { return bundle_; }

 private:
  Engine(Bundle bundle, const EngineSettings& settings);
  void load(const Progress& progress, const Planned& planned);
  // Prepares what is missing, plans the memory.
  void open_store(uint64_t available, const Progress& progress);
  // Fills in what settings leave to the routing method.
  void settle_routing();
  RouterSpec router_spec() const;
  Router make_router() const;
  LogicalCacheOptions cache_options() const;
  // Sets the cache for the first token decoded; returns nanoseconds.
  uint64_t begin_decoding();
  // Goes on with residency `programs`, and says why; throws `cause` where that is no way out.
  void fall_back(const Error& cause);
  MemoryPlan plan_for(Residency residency, uint64_t available) const;
  std::unique_ptr<ExpertPlaces> make_places(const Progress& progress, const Planned& planned);

  Bundle bundle_;
  EngineSettings settings_;
  ThreadPoolLease threads_;
  MemoryPlan plan_;
  std::vector<std::string> fallbacks_;
  bool direct_ = false;
  std::unique_ptr<PackedStore> store_;
  PlannedArena arena_;
  std::unique_ptr<Decoder> decoder_;
  std::vector<Step> steps_;
  uint64_t conversation_ = 0;
  std::string requested_routing_;
  std::vector<std::vector<uint32_t>> profile_;  // by layer
};

// Log-probability of `token` under the logits, in double.
double log_probability(const float* logits, uint32_t vocab_size, uint32_t token);

nlohmann::json to_json(const Step& step);
nlohmann::json to_json(const MemoryPlan& plan);

}  // namespace moe_mobile
