// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/sha256.h"
#include "bundle/quantization.h"
#include "routing/router_spec.h"

namespace moe_mobile {

// bundle.json, validated, with the fields of docs/bundle-format.md section 2.

struct FileRef {
  std::string path;  // relative to the bundle's folder
  uint64_t bytes = 0;
  Sha256Digest sha256{};
};

// What runs a program: the ExecuTorch delegate it was lowered for. kPortable stands for
// ExecuTorch's own kernels, without a delegate.
enum class Delegate { kXnnpack, kPortable };

// Its name in bundle.json: "xnnpack", "portable".
const char* delegate_name(Delegate delegate);

// The file of a layer's dense program, or of the head.
struct DenseProgram : FileRef {
  Delegate delegate = Delegate::kXnnpack;
};

// A layer's attention: the manifest's `attention`, overridden by the layer's own members.
struct AttentionSpec {
  uint32_t num_heads = 0;
  uint32_t num_kv_heads = 0;
  uint32_t head_dim = 0;
  double scale = 0;
  std::vector<double> inverse_frequencies;
  double amplitude = 1;
  bool kv_float32 = false;
  uint32_t window = 0;  // 0: full attention
};

// A short causal convolution over positions, each column by itself.
struct ConvolutionSpec {
  uint32_t kernel = 0;  // positions that an output sees: its own and the kernel - 1 before it
  uint32_t width = 0;   // columns
};

using MixerSpec = std::variant<AttentionSpec, ConvolutionSpec>;

// The bias of the routers has a row per layer with experts.
struct MoeSpec : RouterSpec {
  uint32_t intermediate_size = 0;
};

struct ExpertProgram {
  uint64_t offset = 0;  // in the layer's shard
  uint64_t bytes = 0;
  Sha256Digest sha256{};
};

// The experts of a layer in one precision.
struct LayerExperts {
  FileRef shard;
  Delegate delegate = Delegate::kXnnpack;
  std::vector<ExpertProgram> programs;  // one per expert
};

struct LayerSpec {
  MixerSpec mixer;
  DenseProgram dense;
  std::optional<LayerExperts> experts;  // absent if the MLP is dense
  std::vector<LayerExperts> variants;   // the same experts in a further precision, at most one
};

struct EmbeddingSpec {
  FileRef file;
  bool int8 = false;
  uint64_t row_bytes = 0;
};

struct MemoryFacts {
  uint64_t dense_bytes = 0;        // all dense programs and the head
  uint64_t embedding_bytes = 0;    //
  uint64_t expert_bytes = 0;       // the largest expert program, of any precision
  uint64_t token_cycle_bytes = 0;  // layers with experts x top_k x expert_bytes
  uint64_t experts_bytes = 0;      // all expert programs, of all precisions
};

// Where a layer's experts are stored in one precision.
struct ShardKey {
  uint32_t layer = 0;
  uint32_t variant = 0;
};

struct Manifest {
  std::string name;
  std::string family;
  uint32_t vocab_size = 0;
  uint32_t hidden_size = 0;
  uint32_t num_layers = 0;
  uint32_t context_length = 0;
  std::optional<uint32_t> bos_token_id;
  std::vector<uint32_t> eos_token_ids;  // ascending
  uint64_t num_parameters = 0;
  uint32_t dense_intermediate_size = 0;  // of the widest MLP in a dense program; 0: no MLPs
  AttentionSpec attention;               // the layers' default; window 0
  MoeSpec moe;
  Quantization quantization;
  Delegate delegate = Delegate::kXnnpack;  // the default; already applied to each program
  std::string executorch_version;          // the opener compares it
  uint32_t max_batch = 0;
  EmbeddingSpec embedding;
  std::vector<LayerSpec> layers;
  DenseProgram head;
  std::vector<FileRef> files;
  MemoryFacts memory;
  // What ExpertKey::variant counts: `quantization.experts` first, then the layers' `variants`.
  std::vector<ExpertPrecision> precisions;
  std::string bundle_hash;  // SHA-256 of bundle.json, hexadecimal
  std::string path;         // of bundle.json, for errors

  // The experts of a layer in one precision. REQUIRES: the layer has experts, variant <
  // precisions.size().
  const LayerExperts& experts(uint32_t layer, uint32_t variant) const {
    return variant == 0 ? *layers[layer].experts : layers[layer].variants[variant - 1];
  }
  // The largest expert program in this precision, in bytes.
  uint64_t expert_bytes(uint32_t variant) const;
  // The shards of all layers with experts: layer by layer, in each variant by variant.
  std::vector<ShardKey> shards() const;
  // The layers with experts, ascending.
  std::vector<uint32_t> moe_layers() const;
  uint32_t num_moe_layers() const { return static_cast<uint32_t>(moe_layers().size()); }
  // One more than the number of the last layer with experts.
  uint32_t moe_layers_end() const { return num_moe_layers() == 0 ? 0 : moe_layers().back() + 1; }
};

constexpr uint64_t kMaxManifestBytes = 64ull << 20;

// Parses and validates the text of a bundle.json; `file` names it in errors. Throws kBundleInvalid
// naming the field (layers[3].experts.programs[7].offset), or kUnsupported for a version or
// delegate this build does not know.
Manifest parse_manifest(const std::string& text, const std::string& file);

}  // namespace moe_mobile
