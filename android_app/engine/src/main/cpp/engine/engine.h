// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/span.h"
#include "bundle/quantization.h"
#include "cache/memory_plan.h"
#include "cache/residency_snapshot.h"
#include "engine/progress.h"
#include "metrics/token_metrics.h"
#include "plan/settings.h"

namespace moe_mobile {

// What one step of the engine cost: a prompt, or one token decoded.
struct Step {
  bool prefill = false;
  uint32_t tokens = 1;
  TokenMetrics metrics;
};

// Steps since the last reset or turn, and their totals. Latencies count decoded tokens only.
struct Stats {
  RunMetrics totals;
  std::vector<Step> steps;
};

// The facts about a model that hosts need.
struct ModelInfo {
  std::string name;
  std::string family;
  uint32_t vocab_size = 0;
  uint32_t hidden_size = 0;
  uint32_t num_layers = 0;
  uint32_t num_moe_layers = 0;  // layers with experts
  uint32_t context_length = 0;  // the model's largest number of positions
  uint32_t num_experts = 0;     // of each layer that has experts
  uint32_t top_k = 0;           // experts per token and layer
  uint64_t num_parameters = 0;
  std::vector<uint32_t> eos_token_ids;  // ascending
  Quantization quantization;
  // The precisions of the experts, by variant; the first is quantization.experts.
  std::vector<ExpertPrecision> expert_precisions;
};

struct RoutingInfo {
  std::string requested;  // as parse_routing() takes it
  std::string resolved;   // the same, without automatic values
  std::string note;       // why it became exact routing, and which precisions experts run in, if
                          // it is not the first alone; else empty
  bool lossy = false;     // whether the output may differ from what the model computes
};

struct EngineInfo {
  std::string bundle_hash;  // SHA-256 of bundle.json, hexadecimal
  ModelInfo model;
  MemoryPlan plan;
  EngineSettings settings;  // as resolved: only `cache` may be automatic
  RoutingInfo routing;
  bool direct_io = false;              // whether all experts are read with O_DIRECT
  std::vector<std::string> fallbacks;  // what differs from the settings, and why
  std::string store_key;               // of the packed store of this machine
  std::string executorch, moe_mobile;  // versions
};

// The cost of misses in nanoseconds, one entry per sample: first for packed weights, then for whole
// programs.
struct MissCosts {
  uint64_t packed_bytes = 0;
  uint64_t program_bytes = 0;
  std::vector<uint64_t> raw_read_ns;      // one pread of the packed bytes into memory of its own
  std::vector<uint64_t> slot_miss_ns;     // the same bytes as a slot miss, until the slot can run
  std::vector<uint64_t> slot_rest_ns;     // of slot_miss_ns, when the lane was not reading
  std::vector<uint64_t> forward_ns;       // one forward pass of one row
  std::vector<uint64_t> program_read_ns;  // a miss of residency `programs`: the read,
  std::vector<uint64_t> program_load_ns;  // then ExecuTorch loads the program
};

// An open bundle, ready to run: what moe_runner, the Python module, the app and the tests use. It
// reads no environment variable and prints nothing. All failures are moe_mobile::Error.
//
// Thread rule: calls to one engine never overlap, but may come from different threads. Only info(),
// cancel(), cancels(), resize() and residency() may be called by any thread at any time, also while
// another call runs and from its callbacks; they never wait for it. Engines of one process are
// independent of each other, except that they share one pool of threads and must agree on its size.
class Engine {
 public:
  // Gets the plan after preparing, before its memory is allocated. Called again if the engine falls
  // back to another residency.
  using Planned = std::function<void(const MemoryPlan&)>;
  // Verifies the bundle, prepares it if necessary, plans the memory and loads. kUsage for settings
  // that do not fit the bundle, kBudget if there is not enough memory, kBundleInvalid,
  // kBundleCorrupt, kUnsupported or kIo for a bundle that cannot be used.
  static std::unique_ptr<Engine> open(const std::string& directory, const EngineSettings& settings,
                                      const Progress& progress, const Planned& planned);
  virtual ~Engine() = default;
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  virtual const ModelInfo& model() const = 0;
  virtual EngineInfo info() const = 0;

  // Forgets the conversation and the statistics. The setting initial_cache says what stays cached.
  virtual void reset() = 0;
  // Forgets the statistics only: what is appended next continues the conversation.
  virtual void begin_turn() = 0;
  // Changes with both of these, so that callers notice that an older generation is over.
  virtual uint64_t conversation() const = 0;
  // The number of tokens appended since the last reset, and the largest possible number.
  virtual uint32_t position() const = 0;
  virtual uint32_t context() const = 0;

  // Appends the tokens of a prompt. kUsage if there are no tokens, if they do not fit in the
  // context, or for a token outside the vocabulary. `progress` is called after each batch of each
  // layer; if it throws, nothing was appended.
  virtual void prefill(Span<const uint32_t> tokens, const Progress& progress) = 0;
  // Appends one token as decoding does. kUsage as for prefill().
  virtual void decode(uint32_t token) = 0;
  // Logits [vocab] that follow the last token; valid until the engine runs again. kRuntime if one
  // is NaN or infinite; prefill() and decode() throw it for a router's.
  // REQUIRES: a token was appended since the last reset or turn (kUsage).
  virtual const float* logits() = 0;
  virtual Stats stats() const = 0;

  // From any thread, see the thread rule.

  // Stops the running work: a prompt before its next batch in a layer; a Generator, score() or
  // run_bench() after the token that is being decoded; measure_misses() before its next read or
  // run. They throw kCancelled.
  // The conversation keeps what was appended before: nothing of the prompt, all tokens
  // decoded. Does nothing if nothing runs.
  virtual void cancel() = 0;
  // Counts cancel()s, so that work of several calls notices a cancel() between two of them.
  virtual uint64_t cancels() const = 0;
  // Changes the experts' budget. Experts that no longer fit are evicted, and their memory goes back
  // to the system: at once if no call runs, else after the token that is being decoded, or after
  // the batch of the prompt. A larger budget takes memory as experts come in. With exact routing
  // the output stays the same to the bit. An automatic value of the routing stays as resolved at
  // opening. info() shows the new plan. kBudget as open(), counting this engine's own memory as
  // available; kUsage if all experts stay in memory (residency `resident`). If it throws, nothing
  // changes.
  virtual void resize(const Budget& budget) = 0;
  // Does not slow the running call: it may be called ten times a second, or more.
  virtual ResidencySnapshot residency() const = 0;

  // For measurements and for the routing lab.

  // As prefill(). Returns the routers' logits [MoE layers, tokens, experts].
  virtual std::vector<float> trace(Span<const uint32_t> tokens, const Progress& progress) = 0;
  // From now on uses these logits [positions, MoE layers, experts] instead of the routers'; empty:
  // the routers' own again.
  // REQUIRES: they stay valid until then, and cover every position that is appended.
  virtual void replay_router(Span<const float> logits) = 0;
  // Share of the cache that holds experts, 0 to 1.
  virtual double cache_fill() const = 0;
  // Times `count` misses, 1 to 1000000, of experts drawn at random. `before_each` is called before
  // each read and each run, and may throw to end it. The cache stays as it is: its experts are read
  // again at the end, or when they are first used if this throws. kUsage if residency is
  // `programs`; kIo if the bundle has lost the experts' programs (prepare with `consume`).
  virtual MissCosts measure_misses(uint32_t count, uint32_t seed,
                                   const std::function<void()>& before_each) = 0;

 protected:
  Engine() = default;
};

}  // namespace moe_mobile
