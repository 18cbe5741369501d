// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#include "engine/slot_places.h"

#include <algorithm>

#include "base/crc32c.h"
#include "base/error.h"
#include "engine/probe.h"
#include "executorch/backend.h"
#include "executorch/signature.h"

namespace moe_mobile {
namespace {

// Slots that are added together: they share one read of the process's memory map, and a token waits
// for them.
constexpr uint32_t kSlotsAtOnce = 16;

}  // namespace

SlotPlaces::SlotPlaces(const Bundle& bundle, const PackedStore& store, uint32_t variant,
                       uint32_t most, PlannedArena* arena)
    : store_(store),
      variant_(variant),
      most_(most),
      arena_(arena),
      template_layer_(template_layer(bundle.manifest())),
      template_experts_(bundle.manifest().experts(template_layer_, variant)),
      hidden_size_(bundle.manifest().hidden_size),
      num_experts_(bundle.manifest().moe.num_experts),
      checked_(size_t{bundle.manifest().num_layers} * num_experts_, false) {
  template_bytes_ = store.methods().map(template_program(variant));
  {
    const AlignedBuffer bytes = read_template();
    template_ =
        std::make_unique<LoadedProgram>(bytes.data(), bytes.size(), "the experts' template");
    template_->restore_weights(template_bytes_.data());
  }
  require_expert(*template_, bundle.manifest(), template_layer_, variant);
  add_group(1);
}

AlignedBuffer SlotPlaces::read_template() const {
  AlignedBuffer bytes = store_.methods().read(template_program(variant_));
  if (sha256(bytes.data(), bytes.size()) != template_experts_.programs[0].sha256)
    throw Error(ErrorCode::kBundleCorrupt, store_.methods().path(),
                "the template program does not match its SHA-256", kRepairPackedStore);
  return bytes;
}

void SlotPlaces::add_group(uint32_t count) {
  const PackedWeights& packed = *backend_of(template_experts_.delegate).packed_weights();
  // The first group finds out whether all slots may open their files.
  auto group = packed.make_methods(store_.scratch_directory(), slots_.empty() ? most_ : count);
  const AlignedBuffer index = store_.methods().read(template_index(variant_));
  for (uint32_t i = 0; i < count; ++i)
    group->add(*template_, "forward", arena_, {index.data(), index.size()});
  group->detach();

  const Signature signature{{hidden_size_}, {hidden_size_}, 1};
  const auto fail = [&](uint32_t i, const char* how) {
    throw Error(ErrorCode::kRuntime, store_.directory(),
                "slot " + std::to_string(slots_.size() + i) + how, "Set `residency` to programs.");
  };
  std::vector<std::vector<float>> without;  // weights
  for (uint32_t i = 0; i < count; ++i) {
    without.push_back(probe(&group->method(i), signature));
    group->release_weights(i);  // a page of zeros under a read costs more than none
  }
  if (slots_.empty()) {
    load_template(group.get(), 0);
    reference_ = probe(&group->method(0), signature);
    if (digest_of(reference_) != store_.probe_of(template_index(variant_))) {
      const Backend& backend = backend_of(template_experts_.delegate);
      const auto plain = backend.load(*template_, "forward", arena_);
      if (!same_weights(reference_, probe(plain.get(), signature)))
        fail(0, " does not give the output of its program");
    }
  }
  for (uint32_t i = 0; i < count; ++i)
    if (same_weights(without[i], reference_)) fail(i, " ignores the weights in its memory");
  for (uint32_t i = 0; i < count; ++i) slots_.push_back({group.get(), i});
  groups_.push_back(std::move(group));
}

void SlotPlaces::load_template(ExchangeableMethods* group, size_t number) {
  const PackedFile& file = store_.layer(template_layer_, variant_);
  const PackedEntry& entry = file.entries()[0];
  uint8_t* memory = group->weights(number);
  read_exactly(file.fd(), memory, align_up(entry.length, kBlobAlignment), entry.offset,
               file.path());
  if (crc32c(memory, entry.length) != entry.crc32c)
    throw Error(ErrorCode::kBundleCorrupt, file.path(), "blob 0 does not match its checksum",
                kRepairPackedStore);
}

void SlotPlaces::add(uint32_t most) { add_group(std::min(most, kSlotsAtOnce)); }

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
