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
#include "executorch/packed_weights.h"
#include "executorch/signature.h"

namespace moe_mobile {

// The packed store of a bundle, which `prepare` wrote for this CPU. It holds the packed weights of
// the programs whose delegate packs them (Backend::packed_weights):
//
//   layer-07.packed   the weights of that layer's experts, one blob per expert; those of further
//                     precisions lie in files named after them, layer-07.8da4w.packed
//   methods.packed    if the experts are packed: for each precision the index and the program of
//                     the template, the expert whose program every slot runs; then for each method
//                     of each dense program that is packed: its weights and its index; at last the
//                     probes: what each template and method gives (engine/probe.h)
//
// Every blob has the SHA-256 of the program that it was made from, so a store of another bundle is
// never used. Indexes and probes are sealed (bundle/packed_file.h): XNNPACK trusts the offsets in
// an index, so only what this machine packed is used. A file without blobs does not exist.

// The key of packed weights on this machine, of the delegate that packs them.
std::string packed_store_key();

// The store's folder: `packed_dir`, or BUNDLE/.packed/<key> if that is empty. kUsage if it is a
// link, or lies behind one in the bundle, whatever its name: a bundle from elsewhere must not lead
// to another one's weights, which preparing would replace.
std::string packed_directory(const Bundle& bundle, const std::string& packed_dir);
// The path BUNDLE/.packed/<key>, whatever is there.
std::string own_packed_directory(const Bundle& bundle);

// If the experts are packed: the blobs of each variant's template in methods.packed.
constexpr size_t template_index(uint32_t variant) { return 2 * size_t{variant}; }
constexpr size_t template_program(uint32_t variant) { return 2 * size_t{variant} + 1; }

// A template and a method have as many.
constexpr size_t kBlobsPerMethod = 2;

struct DenseMethod {
  const char* name;
  Signature signature;
};

// A dense program and its methods.
struct DenseEntry {
  const DenseProgram* program = nullptr;
  std::vector<DenseMethod> methods;
  // The blob of the first method's weights in methods.packed. The next blob is its index, then the
  // other methods follow. Empty if the program is not packed.
  std::optional<size_t> blob;
};

// The dense programs of the layers, then the head. Valid as long as the manifest lives.
std::vector<DenseEntry> dense_entries(const Manifest& manifest);
// Throws kBundleInvalid if the entry's program does not have these methods.
void require_methods(const LoadedProgram& program, const DenseEntry& entry);

// Whether the store holds the experts' packed weights: if so, one delegate that packs weights runs
// all layers and precisions. kUnsupported if the model has no experts.
bool packs_experts(const Manifest& manifest);
// A kUnsupported error with the reason if not; empty if packs_experts().
std::optional<Error> why_experts_are_not_packed(const Bundle& bundle);
// REQUIRES: packs_experts().
const PackedWeights& packed_experts(const Manifest& manifest);

std::string methods_file(const std::string& directory);
std::string layer_file(const Manifest& manifest, const std::string& directory, uint32_t layer,
                       uint32_t variant);

// The first layer with experts: its expert 0 is the template. kUnsupported if the model has none.
uint32_t template_layer(const Manifest& manifest);

// What a blob must be.
struct ExpectedBlob {
  Sha256Digest source{};  // the program that it was made from
  bool sealed = false;
};

// What each file must hold, in order. The source of the probes is that of the blob before them.
// Empty: the file does not exist.
std::vector<ExpectedBlob> method_blobs(const Manifest& manifest);
std::vector<ExpectedBlob> layer_blobs(const Manifest& manifest, uint32_t layer, uint32_t variant);

// The remedy for a store of another bundle.
constexpr char kOtherPackedDir[] =
    "Choose another `packed_dir` for this bundle, or delete that one if nothing needs it.";

// Opens a file of the store and checks that it belongs to this bundle, before any blob is read.
// kBundleCorrupt if it does not.
PackedFile open_packed(const std::string& path, const std::vector<ExpectedBlob>& blobs,
                       bool allow_direct);

class PackedStore {
 public:
  struct Options {
    bool direct = true;       // O_DIRECT if the file system has it
    bool experts = true;      // false: opens only the files for dense programs
    std::string scratch_dir;  // for short-lived files if `directory` is not writable
  };
  // Opens all files. kBundleCorrupt for a damaged or foreign one, kIo for a missing one. If the
  // experts are not packed, options.experts changes nothing.
  PackedStore(const Bundle& bundle, const std::string& directory, const Options& options);

  const std::string& directory() const { return directory_; }
  const std::string& scratch_directory() const { return scratch_directory_; }
  // methods.packed. REQUIRES: some program of the bundle is packed.
  const PackedFile& methods() const { return *methods_; }
  // What the template or method gives whose first blob in methods.packed this is.
  const Sha256Digest& probe_of(size_t blob) const { return probes_.at(blob / kBlobsPerMethod); }
  // REQUIRES: options.experts, and the experts are packed.
  const PackedFile& layer(uint32_t layer, uint32_t variant) const {
    return *layers_.at(layer * slot_bytes_.size() + variant);
  }
  // By variant: one expert's packed bytes, padded to kBlobAlignment. 0 if experts are not packed.
  const std::vector<uint64_t>& slot_bytes() const { return slot_bytes_; }
  // Memory that the weights of all dense programs take: their padded packed bytes, or the whole
  // program if it is not packed.
  uint64_t dense_bytes() const { return dense_bytes_; }
  // Whether all expert files are read with O_DIRECT.
  bool direct() const;

 private:
  void open_layer(const Manifest& manifest, uint32_t layer, uint32_t variant, uint64_t weight_bytes,
                  bool direct);

  std::string directory_;
  std::string scratch_directory_;
  std::optional<PackedFile> methods_;
  std::vector<Sha256Digest> probes_;
  // By layer and variant; empty if the experts are not packed.
  std::vector<std::optional<PackedFile>> layers_;
  std::vector<uint64_t> slot_bytes_;
  uint64_t dense_bytes_ = 0;
};

}  // namespace moe_mobile
