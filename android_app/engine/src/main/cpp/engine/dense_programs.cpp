// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#include "engine/dense_programs.h"

#include "base/crc32c.h"
#include "base/error.h"
#include "decoder/mixers.h"
#include "engine/probe.h"
#include "executorch/backend.h"

namespace moe_mobile {

DensePrograms::DensePrograms(const Bundle& bundle, const PackedStore& store, PlannedArena* arena,
                             const Progress& progress)
    : manifest_(bundle.manifest()) {
  for (uint32_t layer = 0; layer < manifest_.num_layers; ++layer)
    mixers_.push_back(mixer_facts(manifest_, layer, manifest_.context_length));
  const std::vector<DenseEntry> entries = dense_entries(manifest_);
  std::map<Delegate, size_t> counts;
  for (const DenseEntry& entry : entries)
    if (entry.blob) counts[entry.program->delegate] += entry.methods.size();
  for (const auto& [delegate, count] : counts)
    packed_[delegate] =
        backend_of(delegate).packed_weights()->make_methods(store.scratch_directory(), count);
  for (const DenseEntry& entry : entries) {
    const AlignedBuffer bytes = bundle.read_verified(*entry.program);
    programs_.push_back(
        std::make_unique<LoadedProgram>(bytes.data(), bytes.size(), bundle.path(*entry.program)));
    require_methods(*programs_.back(), entry);
    if (entry.blob) {
      load_packed(store, entry, arena);
    } else {
      for (const DenseMethod& method : entry.methods) {
        plain_.push_back(
            backend_of(entry.program->delegate).load(*programs_.back(), method.name, arena));
        methods_.push_back(plain_.back().get());
      }
    }
    programs_.back()->release_weights();
    progress("load dense", programs_.size(), entries.size());
  }
}

void DensePrograms::load_packed(const PackedStore& store, const DenseEntry& entry,
                                PlannedArena* arena) {
  const PackedFile& file = store.methods();
  ExchangeableMethods& packed = *packed_.at(entry.program->delegate);
  const size_t first = packed.size();
  for (size_t i = 0; i < entry.methods.size(); ++i) {
    const AlignedBuffer index = file.read(*entry.blob + kBlobsPerMethod * i + 1);
    packed.add(*programs_.back(), entry.methods[i].name, arena, {index.data(), index.size()});
    methods_.push_back(&packed.method(first + i));
  }
  packed.detach();
  for (size_t i = 0; i < entry.methods.size(); ++i) {
    const size_t blob = *entry.blob + kBlobsPerMethod * i;
    const PackedEntry& weights = file.entries()[blob];
    const uint64_t padded = align_up(weights.length, kBlobAlignment);
    if (padded != packed.weight_capacity(first + i))
      throw Error(ErrorCode::kBundleCorrupt, file.path(),
                  "blob " + std::to_string(blob) + " has another length than its index says",
                  kRepairPackedStore);
    uint8_t* memory = packed.weights(first + i);
    read_exactly(file.fd(), memory, padded, weights.offset, file.path());
    if (crc32c(memory, weights.length) != weights.crc32c)
      throw Error(ErrorCode::kBundleCorrupt, file.path(),
                  "blob " + std::to_string(blob) + " does not match its checksum",
                  kRepairPackedStore);
    const DenseMethod& method = entry.methods[i];
    const std::vector<float> given = probe(&packed.method(first + i), method.signature);
    if (digest_of(given) == store.probe_of(blob)) continue;
    const auto plain =
        backend_of(entry.program->delegate).load(*programs_.back(), method.name, arena);
    if (!same_weights(given, probe(plain.get(), method.signature)))
      throw Error(ErrorCode::kBundleCorrupt, file.path(),
                  std::string("with blob ") + std::to_string(blob) + ", method " + method.name +
                      " of " + entry.program->path + " does not give what its program gives",
                  kRepairPackedStore);
  }
}

void DensePrograms::qkv(uint32_t layer, const float* x, uint32_t rows, float* const* inputs) {
  const MatrixIn in[] = {{x, rows, manifest_.hidden_size}};
  out_.clear();
  for (const uint32_t width : mixers_[layer].input_widths)
    out_.push_back({inputs[out_.size()], width});
  methods_[2 * layer]->run(in, out_);
}

void DensePrograms::mix(uint32_t layer, const float* const* mixed, const float* x, uint32_t rows,
                        float* out, float* h, float* logits) {
  in_.clear();
  for (const uint32_t width : mixers_[layer].output_widths)
    in_.push_back({mixed[in_.size()], rows, width});
  in_.push_back({x, rows, manifest_.hidden_size});
  const MatrixOut outputs[] = {{out, manifest_.hidden_size},
                               {h, manifest_.hidden_size},
                               {logits, manifest_.moe.num_experts}};
  const size_t count = manifest_.layers[layer].experts ? 3 : 1;
  methods_[2 * layer + 1]->run(in_, Span<const MatrixOut>(outputs, count));
}

void DensePrograms::head(const float* x, float* logits) {
  const MatrixIn in[] = {{x, 1, manifest_.hidden_size}};
  const MatrixOut out[] = {{logits, manifest_.vocab_size}};
  methods_.back()->run(in, out);
}

}  // namespace moe_mobile
