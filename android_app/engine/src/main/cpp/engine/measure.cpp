// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#include "engine/measure.h"

#include <sys/mman.h>

#include <algorithm>
#include <random>

#include "base/error.h"
#include "engine/program_places.h"
#include "executorch/method.h"
#include "metrics/json.h"
#include "metrics/process_memory.h"
#include "metrics/stopwatch.h"

namespace moe_mobile {

using nlohmann::json;

namespace {

// Samples are kept and answered as one JSON object.
constexpr uint32_t kMaxSamples = 1'000'000;

void require_samples(const char* name, uint32_t count) {
  if (count < 1 || count > kMaxSamples)
    throw Error(ErrorCode::kUsage, Setting{name}, "it must be 1 to " + std::to_string(kMaxSamples),
                "Give a number in that range.");
}

// While it lives, a request's router logits stand for what the routers say.
class Replay {
 public:
  Replay(Engine* engine, const BenchRequest& request) : decoder_(engine->decoder()) {
    if (request.router_logits.empty()) return;
    const Manifest& model = engine->manifest();
    const uint64_t needed = (uint64_t{request.n_prompt} + request.n_gen) * model.num_moe_layers() *
                            model.moe.num_experts;
    if (request.router_logits.size() != needed)
      throw Error(ErrorCode::kUsage, Setting{"router_logits"},
                  std::to_string(request.router_logits.size()) + " values are given, " +
                      std::to_string(needed) + " are needed: positions x MoE layers x experts",
                  "Give logits of a model with this one's layers and experts.");
    decoder_.replay_router(request.router_logits.data());
  }
  ~Replay() { decoder_.replay_router(nullptr); }
  Replay(const Replay&) = delete;
  Replay& operator=(const Replay&) = delete;

 private:
  Decoder& decoder_;
};

// The share of the cache that holds experts.
double cache_fill(Engine& engine) {
  const LogicalCache& cache = engine.decoder().experts().cache();
  const LogicalCacheOptions& options = cache.options();
  const uint32_t pools = options.global ? 1 : engine.manifest().num_moe_layers();
  const double capacity = static_cast<double>(options.capacity) * pools;
  return capacity == 0 ? 1 : cache.size() / capacity;
}

}  // namespace

json run_bench(Engine* engine, const BenchRequest& request, const Progress& progress) {
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
        "Make the sum of n_prompt and n_gen smaller, or the context larger.");
  const uint32_t vocab_size = engine->manifest().vocab_size;
  const Replay replay(engine, request);
  std::mt19937 random(request.seed);
  const auto draw = [&](uint32_t count) {
    std::vector<uint32_t> tokens(count);
    for (uint32_t& token : tokens) token = random() % vocab_size;
    return tokens;
  };
  json samples = json::array();
  const uint32_t first = request.warmup ? 0 : 1;
  for (uint32_t repetition = first; repetition <= request.repetitions; ++repetition) {
    const std::vector<uint32_t> prompt = draw(request.n_prompt);
    const std::vector<uint32_t> tokens = draw(request.n_gen);
    engine->reset();
    json sample;
    sample["cache_fill"] = cache_fill(*engine);
    Stopwatch watch;
    uint64_t prompt_ns = 0;
    if (!prompt.empty()) {
      engine->prefill(prompt, ignore_progress);
      prompt_ns = watch.lap();
      engine->logits();
      sample["ttft_ns"] = prompt_ns + watch.lap();
    }
    json latencies = json::array();
    uint64_t gen_ns = 0;
    for (uint32_t token : tokens) {
      watch.lap();
      engine->decode(token);
      engine->logits();
      const uint64_t passed = watch.lap();
      gen_ns += passed;
      latencies.push_back(passed);
    }
    sample["prompt_ns"] = prompt_ns;
    sample["gen_ns"] = gen_ns;
    sample["itl_ns"] = latencies;
    json steps = json::array();
    for (const Step& step : engine->steps()) steps.push_back(to_json(step));
    sample["tokens"] = steps;
    sample["memory"] = read_process_memory();
    if (repetition > 0) samples.push_back(sample);
    progress("bench", repetition + 1 - first, request.repetitions + 1 - first);
  }
  return samples;
}

json measure_misses(Engine* engine, uint32_t count, uint32_t seed) {
  require_samples("count", count);
  if (engine->settings().residency == Residency::kPrograms)
    throw Error(ErrorCode::kUsage, Setting{"residency"}, "there are no slots to measure",
                "Open the bundle with residency slots.");
  const Manifest& manifest = engine->manifest();
  std::vector<ExpertKey> experts;
  for (uint32_t layer = 0; layer < manifest.num_layers; ++layer)
    if (manifest.layers[layer].experts)
      for (uint32_t expert = 0; expert < manifest.moe.num_experts; ++expert)
        experts.push_back({layer, expert});
  std::mt19937 random(seed);
  std::shuffle(experts.begin(), experts.end(), random);

  // Slot 0 is overwritten from here on; nothing cached may claim it.
  engine->decoder().experts().forget_all();
  ExpertPlaces& slots = engine->decoder().experts().places();
  PlannedArena arena;
  ProgramPlaces programs(engine->bundle(), 1, &arena, /*allow_direct=*/true);
  ReadLanes lanes(1);
  std::vector<float> x(manifest.hidden_size, 0.25f);
  std::vector<float> y(manifest.hidden_size);
  const ReadRequest sample = slots.read_request(experts[0], 0);
  // The raw read gets the best memory there is: whole huge pages, touched.
  constexpr uint64_t kHugePage = 2 << 20;
  AlignedBuffer memory(align_up(sample.length, kHugePage) + kHugePage);
  auto* own =
      reinterpret_cast<uint8_t*>(align_up(reinterpret_cast<uintptr_t>(memory.data()), kHugePage));
  (void)madvise(own, align_up(sample.length, kHugePage), MADV_HUGEPAGE);
  std::fill(own, own + sample.length, uint8_t{1});
  std::vector<uint64_t> raw, miss, slot_rest, program_read, program_load, forward;
  for (uint32_t i = 0; i < count; ++i) {
    const ExpertKey& key = experts[i % experts.size()];
    const ReadRequest request = slots.read_request(key, 0);
    const auto read_through_lane = [&](const ReadRequest& read) {
      lanes.submit(read);
      const ReadDone done = lanes.wait();
      if (done.error) std::rethrow_exception(done.error);
      return done.nanoseconds;
    };
    read_through_lane(request);  // not recorded: an expert's first read checks its CRC
    slots.arrived(key, 0);

    Stopwatch watch;
    const auto read_raw = [&] {
      watch.lap();
      read_exactly(request.fd, own, request.length, request.offset, *request.file);
      raw.push_back(watch.lap());
    };
    const auto miss_slot = [&] {
      watch.lap();
      const ReadRequest again = slots.read_request(key, 0);
      const uint64_t reading = read_through_lane(again);
      slots.arrived(key, 0);
      miss.push_back(watch.lap());
      slot_rest.push_back(miss.back() - reading);
    };
    // In turns: the second of two reads of the same bytes may be the faster one.
    if (i % 2 == 0) {
      read_raw();
      miss_slot();
    } else {
      miss_slot();
      read_raw();
    }
    slots.run(0, x.data(), 1, y.data());
    watch.lap();
    slots.run(0, x.data(), 1, y.data());
    forward.push_back(watch.lap());

    const ReadRequest program = programs.read_request(key, 0);
    watch.lap();
    read_through_lane(program);
    program_read.push_back(watch.lap());
    programs.arrived(key, 0);
    program_load.push_back(watch.lap());
  }
  return {{"packed_bytes", sample.length},
          {"program_bytes", align_up(manifest.memory.expert_bytes, kBlobAlignment)},
          {"raw_read_ns", raw},
          {"slot_miss_ns", miss},
          {"slot_rest_ns", slot_rest},
          {"forward_ns", forward},
          {"program_read_ns", program_read},
          {"program_load_ns", program_load}};
}

json time_program(const std::string& path, uint32_t iterations, uint32_t threads) {
  require_samples("iterations", iterations);
  const ThreadPoolLease lease(threads);
  UniqueFd fd = open_read(path);
  AlignedBuffer bytes(file_size(fd.get(), path));
  read_exactly(fd.get(), bytes.data(), bytes.size(), 0, path);
  const LoadedProgram program(bytes.data(), bytes.size(), path);
  PlannedArena arena;
  Method method(program, "forward", &arena);
  const auto meta = program.program().method_meta("forward");
  std::vector<std::vector<float>> buffers;
  const auto columns_of =
      [&](const executorch::runtime::Result<executorch::runtime::TensorInfo>& info) {
        if (!info.ok() || info->sizes().size() != 2)
          throw Error(ErrorCode::kUsage, path, "an input or output of the program is not a matrix",
                      "Give a program whose forward takes and gives float32 matrices.");
        return static_cast<uint32_t>(info->sizes()[1]);
      };
  std::vector<MatrixIn> inputs;
  std::vector<MatrixOut> outputs;
  for (size_t i = 0; i < meta->num_inputs(); ++i) {
    buffers.emplace_back(columns_of(meta->input_tensor_meta(i)), 0.25f);
    inputs.push_back({buffers.back().data(), 1, static_cast<uint32_t>(buffers.back().size())});
  }
  for (size_t i = 0; i < meta->num_outputs(); ++i) {
    buffers.emplace_back(columns_of(meta->output_tensor_meta(i)));
    outputs.push_back({buffers.back().data(), static_cast<uint32_t>(buffers.back().size())});
  }
  constexpr uint32_t kWarmUp = 5;
  std::vector<uint64_t> samples;
  for (uint32_t i = 0; i < kWarmUp + iterations; ++i) {
    Stopwatch watch;
    method.run(inputs, outputs);
    const uint64_t passed = watch.lap();
    if (i >= kWarmUp) samples.push_back(passed);
  }
  return {{"samples_ns", samples}, {"threads", lease.threads()}};
}

}  // namespace moe_mobile
