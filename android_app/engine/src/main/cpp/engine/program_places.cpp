// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#include "engine/program_places.h"

#include "base/error.h"
#include "base/heap.h"
#include "executorch/backend.h"
#include "executorch/signature.h"

namespace moe_mobile {

ProgramPlaces::ProgramPlaces(const Bundle& bundle, uint32_t variant, uint32_t count,
                             PlannedArena* arena, bool allow_direct)
    : manifest_(bundle.manifest()),
      variant_(variant),
      arena_(arena),
      checked_(size_t{manifest_.num_layers} * manifest_.moe.num_experts, false),
      places_(count) {
  keep_large_blocks_out_of_heap();
  shards_.resize(manifest_.num_layers);
  for (const uint32_t layer : manifest_.moe_layers()) {
    Shard& shard = shards_[layer];
    shard.path = bundle.path(manifest_.experts(layer, variant).shard);
    if (!bundle.has_shard(layer, variant))
      throw Error(ErrorCode::kIo, shard.path,
                  "the shard is missing (preparing with `consume` deletes it)",
                  "Set `residency` to slots, or copy, deploy or export the bundle again.");
    if (allow_direct) {
      try {
        shard.fd = open_read(shard.path, /*direct=*/true);
        AlignedBuffer first(kBlobAlignment);
        read_exactly(shard.fd.get(), first.data(), first.size(), 0, shard.path);
        shard.direct = true;
      } catch (const Error&) {
        shard.fd.reset();  // the file system has no O_DIRECT
      }
    }
    if (!shard.fd.valid()) shard.fd = open_read(shard.path);
  }
}

bool ProgramPlaces::direct() const {
  for (const Shard& shard : shards_)
    if (shard.fd.valid() && !shard.direct) return false;
  return true;
}

void ProgramPlaces::give_back(uint32_t place) {
  places_[place].method.reset();  // before the program that it belongs to
  places_[place] = {};
  idle_staging_.clear();
}

ReadRequest ProgramPlaces::read_request(const ExpertKey& key, uint32_t place) {
  Place& at = places_[place];
  at.method.reset();
  at.program.reset();
  const ExpertProgram& program = manifest_.experts(key.layer, variant_).programs[key.expert];
  if (idle_staging_.empty()) {
    at.staging = std::make_unique<AlignedBuffer>(manifest_.memory.expert_bytes);
  } else {
    at.staging = std::move(idle_staging_.back());
    idle_staging_.pop_back();
  }
  const Shard& shard = shards_[key.layer];
  ReadRequest request;
  request.fd = shard.fd.get();
  request.offset = program.offset;
  request.length = align_up(program.bytes, kBlobAlignment);
  request.destination = at.staging->data();
  request.payload_bytes = program.bytes;
  request.drop_cache = !shard.direct;
  request.file = &shard.path;
  request.remedy = "Copy or export the bundle again.";
  return request;
}

void ProgramPlaces::arrived(const ExpertKey& key, uint32_t place) {
  Place& at = places_[place];
  const ExpertProgram& program = manifest_.experts(key.layer, variant_).programs[key.expert];
  const std::string name =
      "expert " + std::to_string(key.expert) + " of layer " + std::to_string(key.layer);
  const size_t index = size_t{key.layer} * manifest_.moe.num_experts + key.expert;
  const bool first = !checked_[index];
  if (first && sha256(at.staging->data(), program.bytes) != program.sha256)
    throw Error(ErrorCode::kBundleCorrupt, shards_[key.layer].path,
                name + " does not match its SHA-256", "Copy or export the bundle again.");
  at.program = std::make_unique<LoadedProgram>(at.staging->data(), program.bytes, name);
  if (first) require_expert(*at.program, manifest_, key.layer, variant_);
  checked_[index] = true;
  const Delegate delegate = manifest_.experts(key.layer, variant_).delegate;
  at.method = backend_of(delegate).load(*at.program, "forward", arena_);
  at.program->release_weights();
  idle_staging_.push_back(std::move(at.staging));
}

void ProgramPlaces::run(uint32_t place, const float* x, uint32_t rows, float* y) {
  const MatrixIn in[] = {{x, rows, manifest_.hidden_size}};
  const MatrixOut out[] = {{y, manifest_.hidden_size}};
  places_[place].method->run(in, out);
}

}  // namespace moe_mobile
