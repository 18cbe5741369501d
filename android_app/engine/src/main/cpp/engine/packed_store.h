// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "bundle/bundle.h"
#include "bundle/packed_file.h"
#include "executorch/packed_layout.h"

namespace moe_mobile {

// The packed store of a bundle: what `prepare` wrote for this CPU.
//
//   methods.packed    the template's index and program (an expert; every slot runs it); then the
//                     weights and the index of each method: of qkv and mix layer by layer, of the
//                     head last
//   layer-07.packed   the weights of that layer's experts, one blob per expert
//
// Every entry names the bundle program it was made from by SHA-256, so a store of another bundle is
// never taken.

// Where it lies: `packed_dir`, or BUNDLE/.packed/<key> where that is empty.
std::string packed_directory(const Bundle& bundle, const std::string& packed_dir);

// Blobs of methods.packed. A method's index is the blob after its weights.
constexpr size_t kTemplateTail = 0;
constexpr size_t kTemplateProgram = 1;
size_t method_weights_blob(const Manifest& manifest, uint32_t layer, bool mix);
size_t head_weights_blob(const Manifest& manifest);
size_t num_method_blobs(const Manifest& manifest);

std::string methods_file(const std::string& directory);
std::string layer_file(const std::string& directory, uint32_t layer);

// The first layer with experts: its expert 0 is the template. kUnsupported if the model has none.
uint32_t template_layer(const Manifest& manifest);

// What the blobs of each file must have been made from, in order.
std::vector<Sha256Digest> method_sources(const Manifest& manifest);
std::vector<Sha256Digest> layer_sources(const Manifest& manifest, uint32_t layer);

// What to do about a store of another bundle.
constexpr char kOtherPackedDir[] =
    "Choose another packed_dir for this bundle, or delete that one if nothing needs it.";

// Opens a file of the store and checks that it belongs to this bundle. kBundleCorrupt where it does
// not.
PackedFile open_packed(const std::string& path, const std::vector<Sha256Digest>& sources,
                       bool allow_direct);

class PackedStore {
 public:
  struct Options {
    bool direct = true;       // O_DIRECT where the file system has it
    bool experts = true;      // false: the dense methods alone are opened
    std::string scratch_dir;  // for short-lived files where `directory` is not writable
  };
  // Opens all files. kBundleCorrupt for a damaged or foreign one, kIo for a missing one.
  PackedStore(const Bundle& bundle, const std::string& directory, const Options& options);

  const std::string& directory() const { return directory_; }
  const std::string& scratch_directory() const { return scratch_directory_; }
  const PackedFile& methods() const { return methods_; }
  const PackedFile& layer(uint32_t layer) const { return *layers_.at(layer); }
  const PackedLayout& template_layout() const { return template_layout_; }
  // One expert's bytes in memory: its weights, padded to kBlobAlignment.
  uint64_t slot_bytes() const;
  // Packed bytes of all dense methods, likewise padded.
  uint64_t dense_bytes() const { return dense_bytes_; }
  // Whether all expert files are read with O_DIRECT.
  bool direct() const;

 private:
  std::string directory_;
  std::string scratch_directory_;
  PackedFile methods_;
  std::vector<std::optional<PackedFile>> layers_;  // empty where the MLP is dense
  PackedLayout template_layout_;
  uint64_t dense_bytes_ = 0;
};

}  // namespace moe_mobile
