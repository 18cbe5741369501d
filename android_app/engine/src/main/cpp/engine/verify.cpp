// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#include "engine/verify.h"

#include <unistd.h>

#include "base/error.h"
#include "engine/packed_store.h"

namespace moe_mobile {
namespace {

bool exists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

bool has_packed_files(const Manifest& manifest, const std::string& directory) {
  bool found = exists(methods_file(directory));
  for (const auto& [layer, variant] : manifest.shards())
    found = found || exists(layer_file(manifest, directory, layer, variant));
  return found;
}

// An interrupted prepare leaves files out; files that exist must be complete.
VerifiedStore verify_store(const Bundle& bundle, const std::string& directory,
                           const Progress& progress) {
  const Manifest& manifest = bundle.manifest();
  VerifiedStore store;
  store.directory = directory;
  const auto check = [&](const std::string& path, const std::vector<ExpectedBlob>& blobs) {
    if (blobs.empty()) return;
    if (!exists(path)) {
      store.complete = false;
      return;
    }
    const PackedFile file = open_packed(path, blobs, /*allow_direct=*/false);
    for (size_t i = 0; i < file.entries().size(); ++i) store.bytes += file.read(i).size();
    store.blobs += file.entries().size();
  };
  check(methods_file(directory), method_blobs(manifest));
  const std::vector<ShardKey> shards = manifest.shards();
  for (size_t i = 0; i < shards.size(); ++i) {
    check(layer_file(manifest, directory, shards[i].layer, shards[i].variant),
          layer_blobs(manifest, shards[i].layer, shards[i].variant));
    progress("verify packed store", i + 1, shards.size());
  }
  return store;
}

}  // namespace

VerifiedBundle verify_bundle(const Bundle& bundle, const std::string& packed_dir,
                             const Progress& progress) {
  const Manifest& manifest = bundle.manifest();
  const std::string directory = packed_directory(bundle, packed_dir);
  const bool has_store = has_packed_files(manifest, directory);
  const bool packed = packs_experts(manifest);
  std::vector<const FileRef*> files = {&manifest.embedding.file, &manifest.head};
  for (const FileRef& file : manifest.files) files.push_back(&file);
  for (const LayerSpec& layer : manifest.layers) files.push_back(&layer.dense);
  for (const auto& [layer, variant] : manifest.shards()) {
    const FileRef& shard = manifest.experts(layer, variant).shard;
    if (bundle.has_shard(layer, variant)) {
      files.push_back(&shard);
    } else if (!packed || !exists(layer_file(manifest, directory, layer, variant))) {
      throw Error(ErrorCode::kBundleInvalid, bundle.path(shard),
                  "the shard is missing, and there is no packed file for this CPU to replace it",
                  "Copy or export the bundle again.");
    }
  }
  bool has_templates = true;
  for (uint32_t variant = 0; packed && variant < manifest.precisions.size(); ++variant)
    has_templates = has_templates && bundle.has_shard(template_layer(manifest), variant);
  if (!has_templates && !exists(methods_file(directory)))
    throw Error(ErrorCode::kBundleInvalid, methods_file(directory),
                "the packed file is missing, and so is a shard that it is made from",
                "Copy or export the bundle again.");
  const std::string manifest_path = bundle.directory() + "/bundle.json";
  VerifiedBundle verified;
  verified.files = files.size() + 1;
  verified.bytes = file_size(open_read(manifest_path).get(), manifest_path);
  constexpr uint64_t kStep = 64 << 20;
  uint64_t total = 0, done = 0;
  for (const FileRef* file : files) total += file->bytes;
  for (const FileRef* file : files) {
    bundle.verify_file(*file, [&](uint64_t bytes) {
      if (bytes % kStep == 0 || bytes == file->bytes) progress("verify", done + bytes, total);
    });
    done += file->bytes;
  }
  verified.bytes += total;
  if (has_store) verified.packed = verify_store(bundle, directory, progress);
  return verified;
}

}  // namespace moe_mobile
