// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#include "engine/verify.h"

#include <unistd.h>

#include "base/error.h"
#include "engine/packed_store.h"

namespace moe_mobile {
namespace {

nlohmann::json verify_store(const Bundle& bundle, const std::string& directory,
                            const Progress& progress) {
  const PackedStore store(bundle, directory, /*allow_direct=*/false);
  uint64_t blobs = 0;
  uint64_t bytes = 0;
  const uint32_t num_layers = bundle.manifest().num_layers;
  const auto check = [&](const PackedFile& file) {
    for (size_t i = 0; i < file.entries().size(); ++i) {
      bytes += file.read(i).size();
      ++blobs;
    }
  };
  check(store.methods());
  for (uint32_t layer = 0; layer < num_layers; ++layer) {
    if (bundle.manifest().layers[layer].experts) check(store.layer(layer));
    progress("verify packed store", layer + 1, num_layers);
  }
  return {{"directory", directory}, {"blobs", blobs}, {"bytes", bytes}};
}

}  // namespace

nlohmann::json verify_bundle(const Bundle& bundle, const std::string& packed_dir,
                             const Progress& progress) {
  const Manifest& manifest = bundle.manifest();
  const std::string directory = packed_directory(bundle, packed_dir);
  const bool has_store = access(methods_file(directory).c_str(), F_OK) == 0;
  std::vector<const FileRef*> files = {&manifest.embedding.file, &manifest.head};
  for (const FileRef& file : manifest.files) files.push_back(&file);
  for (uint32_t layer = 0; layer < manifest.num_layers; ++layer) {
    files.push_back(&manifest.layers[layer].dense);
    if (!manifest.layers[layer].experts) continue;
    const FileRef& shard = manifest.layers[layer].experts->shard;
    if (bundle.has_shard(layer)) {
      files.push_back(&shard);
    } else if (!has_store) {
      throw Error(ErrorCode::kBundleInvalid, bundle.path(shard),
                  "the shard is missing, and no packed store stands for it",
                  "Copy or export the bundle again.");
    }
  }
  uint64_t bytes = 0;
  for (size_t i = 0; i < files.size(); ++i) {
    bundle.verify_file(*files[i]);
    bytes += files[i]->bytes;
    progress("verify", i + 1, files.size());
  }
  nlohmann::json packed;
  if (has_store) packed = verify_store(bundle, directory, progress);
  return {{"files", files.size()}, {"bytes", bytes}, {"packed", packed}};
}

}  // namespace moe_mobile
