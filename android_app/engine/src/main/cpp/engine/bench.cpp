// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "engine/bench.h"

#include <random>

#include "base/error.h"
#include "metrics/stopwatch.h"

namespace moe_mobile {
namespace {

// While this lives, a request's router logits replace the routers' own.
class Replay {
 public:
  Replay(Engine* engine, const BenchRequest& request) : engine_(engine) {
    if (request.router_logits.empty()) return;
    const ModelInfo& model = engine->model();
    const uint64_t needed =
        (uint64_t{request.n_prompt} + request.n_gen) * model.num_moe_layers * model.num_experts;
    if (request.router_logits.size() != needed)
      throw Error(ErrorCode::kUsage, Setting{"router_logits"},
                  std::to_string(request.router_logits.size()) + " values are given, " +
                      std::to_string(needed) + " are needed: positions x MoE layers x experts",
                  "Give logits of a model with this one's layers and experts.");
    engine->replay_router(request.router_logits);
  }
  ~Replay() { engine_->replay_router({}); }
  Replay(const Replay&) = delete;
  Replay& operator=(const Replay&) = delete;

 private:
  Engine* engine_;
};

BenchSample run_once(Engine* engine, Span<const uint32_t> prompt, Span<const uint32_t> tokens,
                     const Cancellation& cancellation) {
  engine->reset();
  BenchSample sample;
  sample.cache_fill = engine->cache_fill();
  Stopwatch watch;
  if (!prompt.empty()) {
    engine->prefill(prompt, ignore_progress);
    sample.prompt_ns = watch.lap();
    engine->logits();
    sample.ttft_ns = sample.prompt_ns + watch.lap();
  }
  for (const uint32_t token : tokens) {
    watch.lap();
    engine->decode(token);
    engine->logits();
    sample.itl_ns.push_back(watch.lap());
    sample.gen_ns += sample.itl_ns.back();
    cancellation.check();
  }
  sample.steps = engine->stats().steps;
  sample.memory = read_process_memory();
  return sample;
}

}  // namespace

std::vector<BenchSample> run_bench(Engine* engine, const BenchRequest& request,
                                   const Cancellation& cancellation, const Progress& progress) {
  if (request.n_prompt == 0 && request.n_gen == 0)
    throw Error(ErrorCode::kUsage, Setting{"n_prompt"}, "n_prompt and n_gen are both 0",
                "Give one of them.");
  if (request.repetitions == 0)
    throw Error(ErrorCode::kUsage, Setting{"repetitions"}, "it must be at least 1",
                "Give a larger number.");
  if (uint64_t{request.n_prompt} + request.n_gen > engine->context())
    throw Error(
        ErrorCode::kUsage, Setting{"n_prompt"},
        "the test needs more positions than the context of " + std::to_string(engine->context()),
        "Make the sum of `n_prompt` and `n_gen` smaller, or the `context` larger.");
  const uint32_t vocab_size = engine->model().vocab_size;
  const Replay replay(engine, request);
  std::mt19937 random(request.seed);
  const auto draw = [&](uint32_t count) {
    std::vector<uint32_t> tokens(count);
    for (uint32_t& token : tokens) token = random() % vocab_size;
    return tokens;
  };
  std::vector<BenchSample> samples;
  const uint32_t first = request.warmup ? 0 : 1;
  for (uint32_t repetition = first; repetition <= request.repetitions; ++repetition) {
    const std::vector<uint32_t> prompt = draw(request.n_prompt);
    const std::vector<uint32_t> tokens = draw(request.n_gen);
    cancellation.check();
    BenchSample sample = run_once(engine, prompt, tokens, cancellation);
    if (repetition > 0) samples.push_back(std::move(sample));
    progress("bench", repetition + 1 - first, request.repetitions + 1 - first);
  }
  return samples;
}

}  // namespace moe_mobile
