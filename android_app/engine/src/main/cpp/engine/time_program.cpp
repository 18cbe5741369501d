// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "engine/time_program.h"

#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "engine/samples.h"
#include "executorch/backend.h"
#include "executorch/signature.h"
#include "executorch/thread_pool.h"
#include "metrics/stopwatch.h"

namespace moe_mobile {

ProgramTimes time_program(const std::string& path, uint32_t iterations, uint32_t threads,
                          const std::function<void()>& before_each) {
  require_samples("iterations", iterations);
  const ThreadPoolLease lease(threads);
  UniqueFd fd = open_read(path);
  AlignedBuffer bytes(file_size(fd.get(), path), path);
  read_exactly(fd.get(), bytes.data(), bytes.size(), 0, path);
  const LoadedProgram program(bytes.data(), bytes.size(), path);
  PlannedArena arena;
  // A program of another delegate ignores XNNPACK's options.
  const auto method = backend_of(Delegate::kXnnpack).load(program, "forward", &arena);
  const std::optional<Signature> signature = signature_of(program, "forward");
  if (!signature)
    throw Error(ErrorCode::kUsage, path, "an input or output of the program is not a matrix",
                "Give a program whose forward takes and gives float32 matrices.");
  std::vector<std::vector<float>> buffers;
  std::vector<MatrixIn> inputs;
  std::vector<MatrixOut> outputs;
  for (const uint32_t width : signature->inputs) {
    buffers.emplace_back(width, 0.25f);
    inputs.push_back({buffers.back().data(), 1, width});
  }
  for (const uint32_t width : signature->outputs) {
    buffers.emplace_back(width);
    outputs.push_back({buffers.back().data(), width});
  }
  constexpr uint32_t kWarmUp = 5;
  std::vector<uint64_t> samples;
  for (uint32_t i = 0; i < kWarmUp + iterations; ++i) {
    before_each();
    Stopwatch watch;
    method->run(inputs, outputs);
    const uint64_t passed = watch.lap();
    if (i >= kWarmUp) samples.push_back(passed);
  }
  return {std::move(samples), lease.threads()};
}

}  // namespace moe_mobile
