// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "bundle/bundle.h"
#include "bundle/packed_file.h"
#include "executorch/backend.h"

namespace moe_mobile {

// The packed store of a bundle: what `prepare` wrote for this CPU. It holds the packed weights of
// those programs whose delegate has some (Backend::packed_weights):
//
//   layer-07.packed   the weights of that layer's experts, one blob per expert; those of further
//                     precisions lie in files named after them, layer-07.8da4w.packed
//   methods.packed    if the experts are packed: for each precision the index and the program of
//                     the template, the expert whose program every slot runs; then for each method
//                     of each dense program that is packed: its weights and its index
//
// Every blob names the bundle's program that it was made from by SHA-256, so a store of another
// bundle is never taken. A file that would hold nothing does not exist.

// Where it lies: `packed_dir`, or BUNDLE/.packed/<key> if that is empty.
std::string packed_directory(const Bundle& bundle, const std::string& packed_dir);

// Blobs of methods.packed if the experts are packed: of each variant's template.
constexpr size_t template_index(uint32_t variant) { return 2 * size_t{variant}; }
constexpr size_t template_program(uint32_t variant) { return 2 * size_t{variant} + 1; }

// A dense program and its methods.
struct DenseEntry {
  const DenseProgram* program = nullptr;
  std::vector<const char*> methods;
  // Where the first method's weights lie in methods.packed: its index is the next blob, then come
  // the other methods. Empty if the program is not packed.
  std::optional<size_t> blob;
};

// The dense programs of the layers, then the head. Valid as long as the manifest.
std::vector<DenseEntry> dense_entries(const Manifest& manifest);

// Whether the store holds the experts' packed weights: those of all layers and precisions must be
// of one delegate that has some. kUnsupported if the model has no experts.
bool packs_experts(const Manifest& manifest);
// Why not: a kUnsupported error. Empty if packs_experts().
std::optional<Error> why_experts_are_not_packed(const Bundle& bundle);
// REQUIRES: packs_experts().
const PackedWeights& packed_experts(const Manifest& manifest);

std::string methods_file(const std::string& directory);
std::string layer_file(const Manifest& manifest, const std::string& directory, uint32_t layer,
                       uint32_t variant);

// The first layer with experts: its expert 0 is the template. kUnsupported if the model has none.
uint32_t template_layer(const Manifest& manifest);

// What the blobs of each file must have been made from, in order. Empty: there is no such file.
std::vector<Sha256Digest> method_sources(const Manifest& manifest);
std::vector<Sha256Digest> layer_sources(const Manifest& manifest, uint32_t layer, uint32_t variant);

// What to do about a store of another bundle.
constexpr char kOtherPackedDir[] =
    "Choose another packed_dir for this bundle, or delete that one if nothing needs it.";

// Opens a file of the store and checks that it belongs to this bundle. kBundleCorrupt if it does
// not.
PackedFile open_packed(const std::string& path, const std::vector<Sha256Digest>& sources,
                       bool allow_direct);

class PackedStore {
 public:
  struct Options {
    bool direct = true;       // O_DIRECT if the file system has it
    bool experts = true;      // false: only what dense programs need is opened
    std::string scratch_dir;  // for short-lived files if `directory` is not writable
  };
  // Opens all files. kBundleCorrupt for a damaged or foreign one, kIo for a missing one. If the
  // experts are not packed, options.experts changes nothing.
  PackedStore(const Bundle& bundle, const std::string& directory, const Options& options);

  const std::string& directory() const { return directory_; }
  const std::string& scratch_directory() const { return scratch_directory_; }
  // methods.packed. REQUIRES: some program of the bundle is packed.
  const PackedFile& methods() const { return *methods_; }
  // REQUIRES: options.experts, and the experts are packed.
  const PackedFile& layer(uint32_t layer, uint32_t variant) const {
    return *layers_.at(layer * slot_bytes_.size() + variant);
  }
  // By variant: one expert's packed bytes in a slot, padded to kBlobAlignment. 0 if experts are not
  // packed.
  const std::vector<uint64_t>& slot_bytes() const { return slot_bytes_; }
  // Memory that the weights of all dense programs take: their packed bytes, likewise padded, or the
  // whole program if it is not packed.
  uint64_t dense_bytes() const { return dense_bytes_; }
  // Whether all expert files are read with O_DIRECT.
  bool direct() const;

 private:
  void open_layer(const Manifest& manifest, uint32_t layer, uint32_t variant, uint64_t weight_bytes,
                  bool direct);

  std::string directory_;
  std::string scratch_directory_;
  std::optional<PackedFile> methods_;
  // By layer and variant; empty if the experts are not packed.
  std::vector<std::optional<PackedFile>> layers_;
  std::vector<uint64_t> slot_bytes_;
  uint64_t dense_bytes_ = 0;
};

}  // namespace moe_mobile
