// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#include "engine/packed_store.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <set>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "decoder/mixers.h"
#include "executorch/backend.h"

namespace moe_mobile {
namespace {

void refuse_link(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();  // lstat() follows "link/"
  struct stat status{};
  if (lstat(path.c_str(), &status) == 0 && S_ISLNK(status.st_mode))
    throw Error(ErrorCode::kUsage, path, "packed weights are not read or written through a link",
                "Delete the link, or name the folder that it leads to as `packed_dir`.");
}

// Whether the folder `path` is `root`, which has no links, or lies in it.
bool lies_in(const std::filesystem::path& path, const std::filesystem::path& root) {
  std::error_code error;
  const std::filesystem::path real = std::filesystem::canonical(path, error);
  if (error) return false;
  return std::mismatch(root.begin(), root.end(), real.begin(), real.end()).first == root.end();
}

// Links on the way to the bundle are the user's. Those in it came with it.
void refuse_links_in_bundle(const std::string& bundle, const std::string& directory) {
  std::error_code error;  // then the root is empty, and any folder lies in it
  const std::filesystem::path root = std::filesystem::canonical(bundle, error);
  std::filesystem::path path;
  for (const std::filesystem::path& part : std::filesystem::path(directory)) {
    const bool in_bundle = lies_in(path.empty() ? "." : path, root);
    path /= part;
    if (in_bundle) refuse_link(path.string());
  }
}

void require_blobs(const std::string& path, const std::vector<PackedEntry>& entries,
                   const std::vector<ExpectedBlob>& blobs) {
  if (entries.size() != blobs.size())
    throw Error(ErrorCode::kBundleCorrupt, path,
                "it holds " + std::to_string(entries.size()) + " blobs instead of " +
                    std::to_string(blobs.size()),
                kRepairPackedStore);
  for (size_t i = 0; i < blobs.size(); ++i) {
    if (entries[i].source != blobs[i].source)
      throw Error(ErrorCode::kBundleCorrupt, path,
                  "blob " + std::to_string(i) + " was made from another program than this bundle's",
                  kOtherPackedDir);
    if (entries[i].sealed != blobs[i].sealed)
      throw Error(ErrorCode::kBundleCorrupt, path,
                  "blob " + std::to_string(i) + (blobs[i].sealed ? " is not" : " is") + " sealed",
                  kRepairPackedStore);
  }
}

}  // namespace

std::string packed_store_key() {
  // The only delegate that packs weights. A second one would add its key.
  return backend_of(Delegate::kXnnpack).packed_weights()->layout_key();
}

std::string packed_directory(const Bundle& bundle, const std::string& packed_dir) {
  const std::string directory = packed_dir.empty() ? own_packed_directory(bundle) : packed_dir;
  refuse_links_in_bundle(bundle.directory(), directory);
  refuse_link(directory);
  return directory;
}

std::string own_packed_directory(const Bundle& bundle) {
  return bundle.directory() + "/.packed/" + packed_store_key();
}

std::vector<DenseEntry> dense_entries(const Manifest& manifest) {
  std::vector<DenseEntry> entries;
  size_t blob = packs_experts(manifest) ? kBlobsPerMethod * manifest.precisions.size() : 0;
  const auto add = [&](const DenseProgram& program, std::vector<DenseMethod> methods) {
    DenseEntry entry{&program, std::move(methods), std::nullopt};
    if (backend_of(program.delegate).packed_weights() != nullptr) {
      entry.blob = blob;
      blob += kBlobsPerMethod * entry.methods.size();
    }
    entries.push_back(std::move(entry));
  };
  const uint32_t hidden = manifest.hidden_size, batch = manifest.max_batch;
  for (uint32_t layer = 0; layer < manifest.num_layers; ++layer) {
    // The widths do not depend on the context.
    const MixerFacts mixer = mixer_facts(manifest, layer, manifest.context_length);
    Signature mix{mixer.output_widths, {hidden}, batch};
    mix.inputs.push_back(hidden);
    if (manifest.layers[layer].experts)
      mix.outputs.insert(mix.outputs.end(), {hidden, manifest.moe.num_experts});
    add(manifest.layers[layer].dense,
        {{"qkv", {{hidden}, mixer.input_widths, batch}}, {"mix", std::move(mix)}});
  }
  add(manifest.head, {{"forward", {{hidden}, {manifest.vocab_size}, 1}}});
  return entries;
}

void require_methods(const LoadedProgram& program, const DenseEntry& entry) {
  for (const DenseMethod& method : entry.methods)
    require_method(program, method.name, entry.program->delegate, method.signature);
}

bool packs_experts(const Manifest& manifest) {
  const Delegate delegate = manifest.layers[template_layer(manifest)].experts->delegate;
  for (const auto& [layer, variant] : manifest.shards())
    if (manifest.experts(layer, variant).delegate != delegate) return false;
  return backend_of(delegate).packed_weights() != nullptr;
}

std::optional<Error> why_experts_are_not_packed(const Bundle& bundle) {
  const Manifest& manifest = bundle.manifest();
  if (packs_experts(manifest)) return std::nullopt;
  std::set<std::string> delegates;
  for (const auto& [layer, variant] : manifest.shards())
    delegates.insert(delegate_name(manifest.experts(layer, variant).delegate));
  return Error(ErrorCode::kUnsupported, bundle.directory(),
               delegates.size() > 1 ? "its experts are of different delegates, and slots hold "
                                      "experts of one"
                                    : "experts of the delegate " + *delegates.begin() +
                                          " have no packed weights to put into slots",
               "Set `residency` to programs for this bundle.");
}

const PackedWeights& packed_experts(const Manifest& manifest) {
  return *backend_of(manifest.layers[template_layer(manifest)].experts->delegate).packed_weights();
}

std::string methods_file(const std::string& directory) { return directory + "/methods.packed"; }

std::string layer_file(const Manifest& manifest, const std::string& directory, uint32_t layer,
                       uint32_t variant) {
  char name[32];
  std::snprintf(name, sizeof(name), "/layer-%02u.", layer);
  return directory + name + (variant == 0 ? "" : manifest.precisions[variant].quantization + ".") +
         "packed";
}

uint32_t template_layer(const Manifest& manifest) {
  const std::vector<uint32_t> layers = manifest.moe_layers();
  if (!layers.empty()) return layers[0];
  throw Error(ErrorCode::kUnsupported, "bundle.json", "the model has no layer with experts",
              "moe-mobile is for Mixture-of-Experts models.");
}

std::vector<ExpectedBlob> method_blobs(const Manifest& manifest) {
  std::vector<ExpectedBlob> blobs;
  const uint32_t variants =
      packs_experts(manifest) ? static_cast<uint32_t>(manifest.precisions.size()) : 0;
  for (uint32_t variant = 0; variant < variants; ++variant) {
    const Sha256Digest& source =
        manifest.experts(template_layer(manifest), variant).programs[0].sha256;
    blobs.push_back({source, /*sealed=*/true});  // the index
    blobs.push_back({source});
  }
  for (const DenseEntry& entry : dense_entries(manifest))
    for (size_t i = 0; entry.blob && i < entry.methods.size(); ++i) {
      blobs.push_back({entry.program->sha256});
      blobs.push_back({entry.program->sha256, /*sealed=*/true});  // the index
    }
  if (!blobs.empty()) blobs.push_back({blobs.back().source, /*sealed=*/true});  // the probes
  return blobs;
}

std::vector<ExpectedBlob> layer_blobs(const Manifest& manifest, uint32_t layer, uint32_t variant) {
  std::vector<ExpectedBlob> blobs;
  if (!manifest.layers[layer].experts || !packs_experts(manifest)) return blobs;
  for (const ExpertProgram& program : manifest.experts(layer, variant).programs)
    blobs.push_back({program.sha256});
  return blobs;
}

PackedFile open_packed(const std::string& path, const std::vector<ExpectedBlob>& blobs,
                       bool allow_direct) {
  const auto check = [&](const std::vector<PackedEntry>& entries) {
    require_blobs(path, entries, blobs);
  };
  return PackedFile::open(path, packed_store_key(), allow_direct, check);
}

PackedStore::PackedStore(const Bundle& bundle, const std::string& directory, const Options& options)
    : directory_(directory),
      // Slots are made later too, when the process may be in another folder.
      scratch_directory_(std::filesystem::absolute(options.scratch_dir.empty() ||
                                                           access(directory.c_str(), W_OK) == 0
                                                       ? directory
                                                       : options.scratch_dir)),
      layers_(bundle.manifest().num_layers * bundle.manifest().precisions.size()),
      slot_bytes_(bundle.manifest().precisions.size(), 0) {
  const Manifest& manifest = bundle.manifest();
  const auto blobs = method_blobs(manifest);
  if (!blobs.empty()) {
    methods_ = open_packed(methods_file(directory), blobs, options.direct);
    const AlignedBuffer probes = methods_->read(blobs.size() - 1);
    probes_.resize(blobs.size() / kBlobsPerMethod);
    if (probes.size() != probes_.size() * sizeof(Sha256Digest))
      throw Error(ErrorCode::kBundleCorrupt, methods_->path(), "it has another number of probes",
                  kRepairPackedStore);
    std::memcpy(probes_.data(), probes.data(), probes.size());
  }
  for (const DenseEntry& entry : dense_entries(manifest)) {
    if (!entry.blob) dense_bytes_ += align_up(entry.program->bytes, kBlobAlignment);
    for (size_t i = 0; entry.blob && i < entry.methods.size(); ++i) {
      const size_t weights = *entry.blob + kBlobsPerMethod * i;
      dense_bytes_ += align_up(methods_->entries()[weights].length, kBlobAlignment);
    }
  }
  if (!packs_experts(manifest)) return;
  for (uint32_t variant = 0; variant < manifest.precisions.size(); ++variant) {
    const AlignedBuffer index = methods_->read(template_index(variant));
    const uint64_t weight_bytes =
        packed_experts(manifest).weight_bytes({index.data(), index.size()}, methods_->path());
    slot_bytes_[variant] = align_up(weight_bytes, kBlobAlignment);
    if (!options.experts) continue;
    for (const uint32_t layer : manifest.moe_layers())
      open_layer(manifest, layer, variant, weight_bytes, options.direct);
  }
}

void PackedStore::open_layer(const Manifest& manifest, uint32_t layer, uint32_t variant,
                             uint64_t weight_bytes, bool direct) {
  const std::string path = layer_file(manifest, directory_, layer, variant);
  PackedFile file = open_packed(path, layer_blobs(manifest, layer, variant), direct);
  for (const PackedEntry& entry : file.entries())
    if (entry.length != weight_bytes)
      throw Error(ErrorCode::kBundleCorrupt, path,
                  "a blob of " + std::to_string(entry.length) + " bytes does not fit slots of " +
                      std::to_string(weight_bytes),
                  kRepairPackedStore);
  layers_[layer * slot_bytes_.size() + variant] = std::move(file);
}

bool PackedStore::direct() const {
  for (const auto& layer : layers_)
    if (layer && !layer->direct()) return false;
  return true;
}

}  // namespace moe_mobile
