// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#include "engine/dense_programs.h"

#include "base/crc32c.h"
#include "base/error.h"

namespace moe_mobile {

DensePrograms::DensePrograms(const Bundle& bundle, const PackedStore& store, PlannedArena* arena,
                             const Progress& progress)
    : manifest_(bundle.manifest()),
      query_width_(manifest_.attention.num_heads * manifest_.attention.head_dim),
      kv_width_(manifest_.attention.num_kv_heads * manifest_.attention.head_dim),
      methods_(store.scratch_directory()) {
  reserve_file_descriptors(2 * size_t{manifest_.num_layers} + 1);
  const uint64_t total = uint64_t{manifest_.num_layers} + 1;
  const auto load = [&](const FileRef& file, const std::vector<const char*>& names, size_t blob) {
    const AlignedBuffer bytes = bundle.read_verified(file);
    programs_.push_back(
        std::make_unique<LoadedProgram>(bytes.data(), bytes.size(), bundle.path(file)));
    const size_t first = methods_.size();
    for (size_t i = 0; i < names.size(); ++i) {
      const AlignedBuffer tail = store.methods().read(blob + 2 * i + 1);
      methods_.add(*programs_.back(), names[i], arena, {tail.data(), tail.size()});
    }
    programs_.back()->release_weights();
    methods_.detach();
    for (size_t i = 0; i < names.size(); ++i) load_weights(store, first + i, blob + 2 * i);
    progress("load", programs_.size(), total);
  };
  for (uint32_t layer = 0; layer < manifest_.num_layers; ++layer)
    load(manifest_.layers[layer].dense, {"qkv", "mix"},
         method_weights_blob(manifest_, layer, /*mix=*/false));
  load(manifest_.head, {"forward"}, head_weights_blob(manifest_));
}

void DensePrograms::load_weights(const PackedStore& store, size_t method, size_t blob) {
  const PackedFile& file = store.methods();
  const PackedEntry& entry = file.entries()[blob];
  const uint64_t padded = align_up(entry.length, kBlobAlignment);
  if (padded != methods_.weight_capacity(method))
    throw Error(ErrorCode::kBundleCorrupt, file.path(),
                "blob " + std::to_string(blob) + " has another length than its index says",
                kRepairPackedStore);
  read_exactly(file.fd(), methods_.weights(method), padded, entry.offset, file.path());
  if (crc32c(methods_.weights(method), entry.length) != entry.crc32c)
    throw Error(ErrorCode::kBundleCorrupt, file.path(),
                "blob " + std::to_string(blob) + " does not match its checksum",
                kRepairPackedStore);
}

void DensePrograms::qkv(uint32_t layer, const float* x, uint32_t rows, float* q, float* k,
                        float* v) {
  const MatrixIn in[] = {{x, rows, manifest_.hidden_size}};
  const MatrixOut out[] = {{q, query_width_}, {k, kv_width_}, {v, kv_width_}};
  methods_.method(2 * layer).run(in, out);
}

void DensePrograms::mix(uint32_t layer, const float* attention, const float* x, uint32_t rows,
                        float* out, float* h, float* logits) {
  const MatrixIn in[] = {{attention, rows, query_width_}, {x, rows, manifest_.hidden_size}};
  const MatrixOut outputs[] = {{out, manifest_.hidden_size},
                               {h, manifest_.hidden_size},
                               {logits, manifest_.moe.num_experts}};
  const size_t count = manifest_.layers[layer].experts ? 3 : 1;
  methods_.method(2 * layer + 1).run(in, Span<const MatrixOut>(outputs, count));
}

void DensePrograms::head(const float* x, float* logits) {
  const MatrixIn in[] = {{x, 1, manifest_.hidden_size}};
  const MatrixOut out[] = {{logits, manifest_.vocab_size}};
  methods_.method(methods_.size() - 1).run(in, out);
}

}  // namespace moe_mobile
