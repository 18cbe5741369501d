// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#include "engine/slot_places.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "executorch/backend.h"

namespace moe_mobile {
namespace {

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

SlotPlaces::SlotPlaces(const Bundle& bundle, const PackedStore& store, uint32_t count,
                       PlannedArena* arena, const Progress& progress)
    : store_(store),
      hidden_size_(bundle.manifest().hidden_size),
      num_experts_(bundle.manifest().moe.num_experts),
      checked_(size_t{bundle.manifest().num_layers} * num_experts_, false) {
  const uint32_t layer = template_layer(bundle.manifest());
  const LayerExperts& experts = *bundle.manifest().layers[layer].experts;
  template_bytes_ = store.methods().read(kTemplateProgram);
  if (sha256(template_bytes_.data(), template_bytes_.size()) != experts.programs[0].sha256)
    throw Error(ErrorCode::kBundleCorrupt, store.methods().path(),
                "the template program does not match its SHA-256", kRepairPackedStore);
  template_ = std::make_unique<LoadedProgram>(template_bytes_.data(), template_bytes_.size(),
                                              "the experts' template");
  const Backend& backend = backend_of(experts.delegate);
  const std::vector<float> reference =
      run_probe(backend.load(*template_, "forward", arena).get(), hidden_size_);
  slots_ = backend.packed_weights()->make_methods(store.scratch_directory(), count);
  const AlignedBuffer index = store.methods().read(kTemplateIndex);
  for (uint32_t slot = 0; slot < count; ++slot)
    slots_->add(*template_, "forward", arena, {index.data(), index.size()});
  slots_->detach();
  probe(reference, store.layer(layer).read(0), progress);
  template_->release_weights();
  template_bytes_ = AlignedBuffer();
}

void SlotPlaces::probe(const std::vector<float>& reference, const AlignedBuffer& weights,
                       const Progress& progress) {
  for (size_t slot = 0; slot < slots_->size(); ++slot) {
    const bool deaf = same_bits(run_probe(&slots_->method(slot), hidden_size_), reference);
    std::memcpy(slots_->weights(slot), weights.data(), weights.size());
    if (deaf || !same_bits(run_probe(&slots_->method(slot), hidden_size_), reference))
      throw Error(ErrorCode::kRuntime, store_.directory(),
                  "slot " + std::to_string(slot) +
                      (deaf ? " ignores the weights in its memory"
                            : " gives another output than the program it stands for"),
                  "Set `residency` to programs.");
    progress("slots", slot + 1, slots_->size());
  }
}

ReadRequest SlotPlaces::read_request(const ExpertKey& key, uint32_t place) {
  const PackedFile& file = store_.layer(key.layer);
  const PackedEntry& entry = file.entries()[key.expert];
  ReadRequest request;
  request.fd = file.fd();
  request.offset = entry.offset;
  request.length = align_up(entry.length, kBlobAlignment);
  request.destination = slots_->weights(place);
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
  slots_->method(place).run(in, out);
}

}  // namespace moe_mobile
