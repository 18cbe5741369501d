// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#include "engine/packed_store.h"

#include <unistd.h>

#include <cstdio>

#include "base/error.h"
#include "engine/store_key.h"

namespace moe_mobile {
namespace {

constexpr size_t kFirstMethodBlob = 2;
constexpr size_t kBlobsPerMethod = 2;
constexpr size_t kMethodsPerLayer = 2;

}  // namespace

std::string packed_directory(const Bundle& bundle, const std::string& packed_dir) {
  return packed_dir.empty() ? bundle.directory() + "/.packed/" + packed_store_key() : packed_dir;
}

size_t method_weights_blob(const Manifest&, uint32_t layer, bool mix) {
  return kFirstMethodBlob + kBlobsPerMethod * (kMethodsPerLayer * layer + (mix ? 1 : 0));
}

size_t head_weights_blob(const Manifest& manifest) {
  return method_weights_blob(manifest, manifest.num_layers, false);
}

size_t num_method_blobs(const Manifest& manifest) {
  return head_weights_blob(manifest) + kBlobsPerMethod;
}

std::string methods_file(const std::string& directory) { return directory + "/methods.packed"; }

std::string layer_file(const std::string& directory, uint32_t layer) {
  char name[32];
  std::snprintf(name, sizeof(name), "/layer-%02u.packed", layer);
  return directory + name;
}

uint32_t template_layer(const Manifest& manifest) {
  for (uint32_t layer = 0; layer < manifest.num_layers; ++layer)
    if (manifest.layers[layer].experts) return layer;
  throw Error(ErrorCode::kUnsupported, "bundle.json", "the model has no layer with experts",
              "moe-mobile is for Mixture-of-Experts models.");
}

std::vector<Sha256Digest> method_sources(const Manifest& manifest) {
  const Sha256Digest expert = manifest.layers[template_layer(manifest)].experts->programs[0].sha256;
  std::vector<Sha256Digest> sources(kFirstMethodBlob, expert);
  for (const LayerSpec& layer : manifest.layers)
    sources.insert(sources.end(), kBlobsPerMethod * kMethodsPerLayer, layer.dense.sha256);
  sources.insert(sources.end(), kBlobsPerMethod, manifest.head.sha256);
  return sources;
}

std::vector<Sha256Digest> layer_sources(const Manifest& manifest, uint32_t layer) {
  std::vector<Sha256Digest> sources;
  for (const ExpertProgram& program : manifest.layers[layer].experts->programs)
    sources.push_back(program.sha256);
  return sources;
}

PackedFile open_packed(const std::string& path, const std::vector<Sha256Digest>& sources,
                       bool allow_direct) {
  PackedFile file = PackedFile::open(path, packed_store_key(), allow_direct);
  if (file.entries().size() != sources.size())
    throw Error(ErrorCode::kBundleCorrupt, path,
                "it holds " + std::to_string(file.entries().size()) + " blobs instead of " +
                    std::to_string(sources.size()),
                kRepairPackedStore);
  for (size_t i = 0; i < sources.size(); ++i)
    if (file.entries()[i].source != sources[i])
      throw Error(ErrorCode::kBundleCorrupt, path,
                  "blob " + std::to_string(i) + " was made from another program than this bundle's",
                  kOtherPackedDir);
  return file;
}

PackedStore::PackedStore(const Bundle& bundle, const std::string& directory, const Options& options)
    : directory_(directory),
      scratch_directory_(options.scratch_dir.empty() || access(directory.c_str(), W_OK) == 0
                             ? directory
                             : options.scratch_dir),
      methods_(
          open_packed(methods_file(directory), method_sources(bundle.manifest()), options.direct)) {
  const Manifest& manifest = bundle.manifest();
  const AlignedBuffer tail = methods_.read(kTemplateTail);
  template_layout_ = parse_packed_tail({tail.data(), tail.size()}, methods_.path());
  for (size_t blob = kFirstMethodBlob; blob < num_method_blobs(manifest); blob += kBlobsPerMethod)
    dense_bytes_ += align_up(methods_.entries()[blob].length, kBlobAlignment);
  for (uint32_t layer = 0; layer < manifest.num_layers; ++layer) {
    layers_.emplace_back();
    if (!manifest.layers[layer].experts || !options.experts) continue;
    const std::string path = layer_file(directory, layer);
    layers_.back() = open_packed(path, layer_sources(manifest, layer), options.direct);
    for (const PackedEntry& entry : layers_.back()->entries())
      if (entry.length != template_layout_.weight_bytes)
        throw Error(ErrorCode::kBundleCorrupt, path,
                    "a blob of " + std::to_string(entry.length) + " bytes does not fit slots of " +
                        std::to_string(template_layout_.weight_bytes),
                    kRepairPackedStore);
  }
}

uint64_t PackedStore::slot_bytes() const {
  return align_up(template_layout_.weight_bytes, kBlobAlignment);
}

bool PackedStore::direct() const {
  for (const auto& layer : layers_)
    if (layer && !layer->direct()) return false;
  return true;
}

}  // namespace moe_mobile
