// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#include "engine/slot_places.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "executorch/backend.h"
#include "executorch/signature.h"

namespace moe_mobile {
namespace {

// Slots that are added together when the budget grows: they share one read of the template and of
// the process's memory map, about 20 ms, and a token waits for them.
constexpr uint32_t kSlotsAtOnce = 16;

std::vector<float> probe_input(uint32_t hidden_size) {
  std::vector<float> x(hidden_size);
  for (uint32_t i = 0; i < hidden_size; ++i)
    x[i] = std::sin(0.7f * static_cast<float>(i + 1)) * (1.0f + static_cast<float>(i % 5));
  return x;
}

std::vector<float> run_probe(Method* method, uint32_t hidden_size) {
  const std::vector<float> x = probe_input(hidden_size);
  std::vector<float> y(hidden_size);
  const MatrixIn in[] = {{x.data(), 1, hidden_size}};
  const MatrixOut out[] = {{y.data(), hidden_size}};
  method->run(in, out);
  return y;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace

SlotPlaces::SlotPlaces(const Bundle& bundle, const PackedStore& store, uint32_t variant,
                       uint32_t count, PlannedArena* arena, const Progress& progress)
    : store_(store),
      variant_(variant),
      arena_(arena),
      template_layer_(template_layer(bundle.manifest())),
      template_experts_(bundle.manifest().experts(template_layer_, variant)),
      hidden_size_(bundle.manifest().hidden_size),
      num_experts_(bundle.manifest().moe.num_experts),
      checked_(size_t{bundle.manifest().num_layers} * num_experts_, false) {
  const AlignedBuffer bytes = read_template();
  template_ = std::make_unique<LoadedProgram>(bytes.data(), bytes.size(), "the experts' template");
  require_expert(*template_, bundle.manifest(), template_layer_, variant);
  const Backend& backend = backend_of(template_experts_.delegate);
  reference_ = run_probe(backend.load(*template_, "forward", arena).get(), hidden_size_);
  add_group(count, progress);
  template_->release_weights();
}

AlignedBuffer SlotPlaces::read_template() const {
  AlignedBuffer bytes = store_.methods().read(template_program(variant_));
  if (sha256(bytes.data(), bytes.size()) != template_experts_.programs[0].sha256)
    throw Error(ErrorCode::kBundleCorrupt, store_.methods().path(),
                "the template program does not match its SHA-256", kRepairPackedStore);
  return bytes;
}

void SlotPlaces::add_group(uint32_t count, const Progress& progress) {
  const PackedWeights& packed = *backend_of(template_experts_.delegate).packed_weights();
  auto group = packed.make_methods(store_.scratch_directory(), count);
  const AlignedBuffer index = store_.methods().read(template_index(variant_));
  for (uint32_t i = 0; i < count; ++i)
    group->add(*template_, "forward", arena_, {index.data(), index.size()});
  group->detach();

  const AlignedBuffer weights = store_.layer(template_layer_, variant_).read(0);
  for (uint32_t i = 0; i < count; ++i) {
    const bool deaf = same_bits(run_probe(&group->method(i), hidden_size_), reference_);
    std::memcpy(group->weights(i), weights.data(), weights.size());
    if (deaf || !same_bits(run_probe(&group->method(i), hidden_size_), reference_))
      throw Error(ErrorCode::kRuntime, store_.directory(),
                  "slot " + std::to_string(slots_.size() + i) +
                      (deaf ? " ignores the weights in its memory"
                            : " does not give the output of its program"),
                  "Set `residency` to programs.");
    progress("slots", i + 1, count);
  }
  for (uint32_t i = 0; i < count; ++i) slots_.push_back({group.get(), i});
  groups_.push_back(std::move(group));
}

void SlotPlaces::add(uint32_t most) {
  const size_t first = slots_.size();
  const AlignedBuffer bytes = read_template();
  template_->restore_weights(bytes.data());
  try {
    add_group(std::min(most, kSlotsAtOnce), ignore_progress);
  } catch (...) {
    template_->release_weights();
    throw;
  }
  template_->release_weights();
  for (size_t slot = first; slot < slots_.size(); ++slot) give_back(static_cast<uint32_t>(slot));
}

void SlotPlaces::give_back(uint32_t place) {
  slots_[place].group->release_weights(slots_[place].number);
}

ReadRequest SlotPlaces::read_request(const ExpertKey& key, uint32_t place) {
  const PackedFile& file = store_.layer(key.layer, variant_);
  const PackedEntry& entry = file.entries()[key.expert];
  ReadRequest request;
  request.fd = file.fd();
  request.offset = entry.offset;
  request.length = align_up(entry.length, kBlobAlignment);
  request.destination = slots_[place].weights();
  request.payload_bytes = entry.length;
  request.crc = entry.crc32c;
  request.check_crc = !checked_[size_t{key.layer} * num_experts_ + key.expert];
  request.drop_cache = !file.direct();
  request.file = &file.path();
  request.remedy = kRepairPackedStore;
  return request;
}

void SlotPlaces::arrived(const ExpertKey& key, uint32_t) {
  checked_[size_t{key.layer} * num_experts_ + key.expert] = true;
}

void SlotPlaces::run(uint32_t place, const float* x, uint32_t rows, float* y) {
  const MatrixIn in[] = {{x, rows, hidden_size_}};
  const MatrixOut out[] = {{y, hidden_size_}};
  slots_[place].method().run(in, out);
}

}  // namespace moe_mobile
