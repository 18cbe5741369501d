// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "engine/measure.h"

#include <sys/mman.h>

#include <algorithm>
#include <random>
#include <utility>

#include "base/error.h"
#include "engine/program_places.h"
#include "engine/samples.h"
#include "metrics/stopwatch.h"

namespace moe_mobile {

MissCosts measure_misses(const Bundle& bundle, ExpertStream* stream, uint32_t count, uint32_t seed,
                         const std::function<void()>& before_each) {
  require_samples("count", count);
  const Manifest& manifest = bundle.manifest();
  uint32_t variant = 0;  // the first that has places
  while (stream->places(variant) == nullptr) ++variant;
  ExpertPlaces& slots = *stream->places(variant);
  std::vector<ExpertKey> experts;
  for (const uint32_t layer : manifest.moe_layers())
    for (uint32_t expert = 0; expert < manifest.moe.num_experts; ++expert)
      experts.push_back({layer, expert, variant});
  std::mt19937 random(seed);
  std::shuffle(experts.begin(), experts.end(), random);

  PlannedArena arena;
  ProgramPlaces programs(bundle, variant, 1, &arena, /*allow_direct=*/true);
  ReadLanes lanes(1);
  std::vector<float> x(manifest.hidden_size, 0.25f);
  std::vector<float> y(manifest.hidden_size);
  // Slot 0 is overwritten from here on; no expert may claim it.
  stream->retain({});
  const ReadRequest sample = slots.read_request(experts[0], 0);
  // The raw read gets the fastest memory: whole huge pages, already touched.
  constexpr uint64_t kHugePage = 2 << 20;
  AlignedBuffer memory(align_up(sample.length, kHugePage) + kHugePage);
  auto* own =
      reinterpret_cast<uint8_t*>(align_up(reinterpret_cast<uintptr_t>(memory.data()), kHugePage));
  (void)madvise(own, align_up(sample.length, kHugePage), MADV_HUGEPAGE);
  std::fill(own, own + sample.length, uint8_t{1});

  MissCosts costs;
  costs.packed_bytes = sample.length;
  costs.program_bytes = align_up(manifest.expert_bytes(variant), kBlobAlignment);
  Stopwatch watch;
  // Returns what the lane took.
  const auto read = [&](const ReadRequest& request) {
    before_each();
    lanes.submit(request);
    const ReadDone done = lanes.wait();
    if (done.error) std::rethrow_exception(done.error);
    return done.nanoseconds;
  };
  const auto read_raw = [&](const ExpertKey& key) {
    const ReadRequest request = slots.read_request(key, 0);
    before_each();
    watch.lap();
    read_exactly(request.fd, own, request.length, request.offset, *request.file);
    costs.raw_read_ns.push_back(watch.lap());
  };
  const auto miss_slot = [&](const ExpertKey& key) {
    watch.lap();
    const uint64_t reading = read(slots.read_request(key, 0));
    slots.arrived(key, 0);
    costs.slot_miss_ns.push_back(watch.lap());
    costs.slot_rest_ns.push_back(costs.slot_miss_ns.back() - reading);
  };
  for (uint32_t i = 0; i < count; ++i) {
    const ExpertKey& key = experts[i % experts.size()];
    read(slots.read_request(key, 0));  // not recorded: an expert's first read checks its CRC
    slots.arrived(key, 0);
    // In turns: the second of two reads of the same bytes may be the faster one.
    if (i % 2 == 0) read_raw(key);
    miss_slot(key);
    if (i % 2 != 0) read_raw(key);

    before_each();
    slots.run(0, x.data(), 1, y.data());
    before_each();
    watch.lap();
    slots.run(0, x.data(), 1, y.data());
    costs.forward_ns.push_back(watch.lap());

    const ReadRequest program = programs.read_request(key, 0);
    watch.lap();
    read(program);
    costs.program_read_ns.push_back(watch.lap());
    programs.arrived(key, 0);
    costs.program_load_ns.push_back(watch.lap());
  }
  return costs;
}

}  // namespace moe_mobile
