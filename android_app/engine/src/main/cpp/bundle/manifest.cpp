// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "bundle/manifest.h"

#include <algorithm>
#include <set>

#include "base/error.h"
#include "base/file.h"
#include "bundle/json_field.h"
#include "cache/expert_key.h"

namespace moe_mobile {
namespace {

constexpr uint64_t kMaxInteger = 1ull << 53;
constexpr uint32_t kMaxTokens = 1u << 24;
// The quantization that has a scale for each group.
constexpr char kGrouped[] = "8da4w";
constexpr Delegate kDelegates[] = {Delegate::kXnnpack, Delegate::kPortable};

// Sums that throw if they exceed the format's largest number.
class Sum {
 public:
  void add(uint64_t value, const JsonField& where) {
    if (value > kMaxInteger - total_) where.fail("makes the sum of sizes exceed 2^53");
    total_ += value;
  }
  uint64_t total() const { return total_; }

 private:
  uint64_t total_ = 0;
};

void check_path(const std::string& path, const JsonField& field) {
  size_t start = 0;
  while (true) {
    const size_t end = std::min(path.find('/', start), path.size());
    const std::string component = path.substr(start, end - start);
    if (component.empty()) field.fail("has an empty component: " + in_quotes(path));
    if (component == "." || component == "..") {
      field.fail("has the component " + in_quotes(component) + ": " + in_quotes(path));
    }
    for (const char c : component) {
      const bool allowed = (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
                           (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
      if (!allowed) field.fail("has a character outside [A-Za-z0-9._-]: " + in_quotes(path));
    }
    if (start == 0 && component == ".packed")
      field.fail("lies in .packed, which is not part of a bundle");
    if (end == path.size()) break;
    start = end + 1;
  }
  if (path == "bundle.json") field.fail("lists bundle.json itself");
}

class Reader {
 public:
  explicit Reader(const JsonField& root) : root_(root) {}

  Manifest read() {
    root_.expect_object();
    // Format and version first: a newer version may have other members.
    if (!root_.has("format") || !root_.has("version")) {
      root_.fail("has no \"format\" or \"version\": it is not a bundle manifest");
    }
    root_["format"].one_of({"moe-mobile-bundle"});
    const uint64_t version = root_["version"].integer(0, kMaxInteger);
    if (version != 1) {
      root_["version"].fail("is " + std::to_string(version) + ", this build knows 1",
                            ErrorCode::kUnsupported);
    }
    root_.expect_members({"format", "version", "model", "attention", "moe", "quantization",
                          "delegate", "max_batch", "embedding", "layers", "head", "files", "memory",
                          "provenance"});
    root_["provenance"].expect_object();
    read_model(root_["model"]);
    read_attention(root_["attention"]);
    read_moe(root_["moe"]);
    read_quantization(root_["quantization"]);
    read_delegate(root_["delegate"]);
    m_.max_batch = root_["max_batch"].integer32(1, 4096);
    read_embedding(root_["embedding"]);
    read_layers(root_["layers"]);
    if (m_.precisions.empty()) m_.precisions = {base_precision()};  // no layer has experts
    check_bias_rows(root_["moe"]["router"]);
    m_.head = read_dense_program(root_["head"]);
    dense_bytes_.add(m_.head.bytes, root_["head"]);
    read_files(root_["files"]);
    read_memory(root_["memory"]);
    return std::move(m_);
  }

 private:
  void read_model(const JsonField& f) {
    f.expect_members({"name", "family", "vocab_size", "hidden_size", "num_layers", "context_length",
                      "bos_token_id", "eos_token_ids", "num_parameters",
                      "dense_intermediate_size"});
    m_.name = f["name"].text(200);
    m_.family = f["family"].text(64);
    m_.vocab_size = f["vocab_size"].integer32(1, kMaxTokens);
    m_.hidden_size = f["hidden_size"].integer32(1, 1u << 20);
    m_.num_layers = f["num_layers"].integer32(1, 4096);
    m_.context_length = f["context_length"].integer32(1, kMaxTokens);
    if (!f["bos_token_id"].is_null()) {
      m_.bos_token_id = f["bos_token_id"].integer32(0, m_.vocab_size - 1);
    }
    const JsonField eos = f["eos_token_ids"];
    const size_t count = eos.array_size();
    if (count > 16) eos.fail("has more than 16 entries");
    for (size_t i = 0; i < count; ++i) {
      const uint32_t id = eos.at(i).integer32(0, m_.vocab_size - 1);
      if (i > 0 && id <= m_.eos_token_ids.back()) eos.at(i).fail("is not above the one before it");
      m_.eos_token_ids.push_back(id);
    }
    m_.num_parameters = f["num_parameters"].integer(0, kMaxInteger);
    m_.dense_intermediate_size = f["dense_intermediate_size"].integer32(0, 1u << 24);
  }

  void read_attention(const JsonField& f) {
    f.expect_members({"num_heads", "num_kv_heads", "head_dim", "scale", "rope", "kv_dtype"});
    read_heads(f, &m_.attention);
    m_.attention.kv_float32 = f["kv_dtype"].one_of({"float16", "float32"}) == "float32";
  }

  // Reads the members that exist into `a`, and checks that all of `a` fits together.
  static void read_heads(const JsonField& f, AttentionSpec* a) {
    if (f.has("num_heads")) a->num_heads = f["num_heads"].integer32(1, 4096);
    if (f.has("num_kv_heads")) a->num_kv_heads = f["num_kv_heads"].integer32(1, 4096);
    if (f.has("head_dim")) a->head_dim = f["head_dim"].integer32(1, 4096);
    if (a->num_heads % a->num_kv_heads != 0)
      f.has("num_heads") ? f["num_heads"].fail("is not a multiple of num_kv_heads")
                         : f["num_kv_heads"].fail("is not a divisor of num_heads");
    if (f.has("scale")) {
      a->scale = f["scale"].number();
      if (a->scale <= 0) f["scale"].fail("is not positive");
    }
    if (f.has("rope")) {
      const JsonField rope = f["rope"];
      rope.expect_members({"inverse_frequencies", "amplitude"});
      const JsonField frequencies = rope["inverse_frequencies"];
      a->inverse_frequencies.clear();
      for (size_t i = 0; i < frequencies.array_size(); ++i)
        a->inverse_frequencies.push_back(frequencies.at(i).number());
      a->amplitude = rope["amplitude"].number();
    }
    if (2 * a->inverse_frequencies.size() > a->head_dim)
      f.has("rope") ? f["rope"]["inverse_frequencies"].fail("rotates more elements than head_dim")
                    : f["head_dim"].fail("is less than the elements that are rotated");
  }

  void read_moe(const JsonField& f) {
    f.expect_members({"num_experts", "top_k", "intermediate_size", "router"});
    m_.moe.num_experts = f["num_experts"].integer32(1, 65536);
    m_.moe.top_k = f["top_k"].integer32(1, m_.moe.num_experts);
    m_.moe.intermediate_size = f["intermediate_size"].integer32(1, 1u << 24);
    const JsonField router = f["router"];
    router.expect_members({"score", "renormalize"},
                          {"scale", "epsilon", "groups", "top_groups", "bias"});
    m_.moe.scoring = parse_scoring(
        router["score"].one_of({"softmax", "sigmoid", "relu"}, ErrorCode::kUnsupported));
    m_.moe.renormalize = router["renormalize"].boolean();
    if (router.has("scale")) m_.moe.scale = read_between(router["scale"], 1e-6, 1e6);
    if (router.has("epsilon")) {
      m_.moe.epsilon = read_between(router["epsilon"], 0, 1);
      if (!m_.moe.renormalize && m_.moe.epsilon != 0)
        router["epsilon"].fail("is not 0, though the weights are not renormalised");
    }
    read_groups(router);
    if (router.has("bias")) read_bias(router["bias"]);
  }

  static float read_between(const JsonField& f, double low, double high) {
    const double value = f.number();
    if (value < low || value > high) f.fail("is out of range");
    return static_cast<float>(value);
  }

  void read_groups(const JsonField& router) {
    MoeSpec& moe = m_.moe;
    if (router.has("groups")) moe.groups = router["groups"].integer32(1, moe.num_experts);
    if (moe.num_experts % moe.groups != 0)
      router["groups"].fail("is not a divisor of moe.num_experts");
    if (router.has("top_groups")) moe.top_groups = router["top_groups"].integer32(1, moe.groups);
    if (uint64_t{moe.num_experts / moe.groups} * moe.top_groups < moe.top_k)
      router.fail("has groups that leave fewer than moe.top_k experts");
  }

  // Rows of the layers with experts; check_bias_rows() counts them once the layers are known.
  void read_bias(const JsonField& f) {
    if (m_.moe.scoring != Scoring::kSigmoid) f.fail("needs the score sigmoid");
    const size_t rows = f.array_size();
    for (size_t row = 0; row < rows; ++row) {
      const JsonField values = f.at(row);
      if (values.array_size() != m_.moe.num_experts)
        values.fail("does not have moe.num_experts entries");
      for (size_t expert = 0; expert < m_.moe.num_experts; ++expert)
        m_.moe.bias.push_back(static_cast<float>(values.at(expert).number()));
    }
  }

  void check_bias_rows(const JsonField& router) {
    if (!router.has("bias")) return;
    if (router["bias"].array_size() != m_.num_moe_layers())
      router["bias"].fail("does not have an entry for each layer with experts");
  }

  void read_quantization(const JsonField& f) {
    f.expect_members({"experts", "dense", "head", "embedding", "group_size"});
    Quantization& q = m_.quantization;
    q.experts = f["experts"].one_of(kQuantizations, ErrorCode::kUnsupported);
    q.dense = f["dense"].one_of(kQuantizations, ErrorCode::kUnsupported);
    q.head = f["head"].one_of(kQuantizations, ErrorCode::kUnsupported);
    q.embedding = f["embedding"].one_of({"fp32", "int8"}, ErrorCode::kUnsupported);
    if (q.experts == kGrouped || q.dense == kGrouped || q.head == kGrouped) {
      q.group_size = read_group_size(f["group_size"]);
    } else if (f["group_size"].integer32(0, 256) != 0) {
      f["group_size"].fail("is not 0, though nothing is 8da4w");
    }
  }

  static uint32_t read_group_size(const JsonField& f) {
    const uint32_t size = f.integer32(0, 256);
    if (size != 32 && size != 64 && size != 128 && size != 256) f.fail("is not 32, 64, 128 or 256");
    return size;
  }

  void read_delegate(const JsonField& f) {
    f.expect_members({"name", "executorch"});
    m_.delegate = read_delegate_name(f["name"]);
    m_.executorch_version = f["executorch"].text(64);
  }

  static Delegate read_delegate_name(const JsonField& f) {
    const std::string name = f.text(64);
    for (const Delegate delegate : kDelegates)
      if (name == delegate_name(delegate)) return delegate;
    std::string supported;
    for (const Delegate delegate : kDelegates)
      supported += (supported.empty() ? "" : ", ") + std::string(delegate_name(delegate));
    f.fail("is " + in_quotes(name) + ", a delegate this build does not support (it supports " +
               supported + ")",
           ErrorCode::kUnsupported);
  }

  // A program that names no delegate has the manifest's.
  Delegate read_program_delegate(const JsonField& f) const {
    return f.has("delegate") ? read_delegate_name(f["delegate"]) : m_.delegate;
  }

  DenseProgram read_dense_program(const JsonField& f) {
    f.expect_members({"path", "bytes", "sha256"}, {"delegate"});
    DenseProgram program;
    static_cast<FileRef&>(program) = read_file_members(f, 1);
    program.delegate = read_program_delegate(f);
    return program;
  }

  void read_embedding(const JsonField& f) {
    f.expect_members({"path", "bytes", "sha256", "dtype", "row_bytes"});
    EmbeddingSpec& e = m_.embedding;
    e.file = read_file_members(f, 1);
    if (f["dtype"].one_of({"fp32", "int8"}) != m_.quantization.embedding) {
      f["dtype"].fail("differs from quantization.embedding");
    }
    e.int8 = m_.quantization.embedding == "int8";
    e.row_bytes = f["row_bytes"].integer(1, kMaxInteger);
    const uint64_t hidden = m_.hidden_size;
    const uint64_t expected = e.int8 ? align_up(hidden, 4) + 4 : 4 * hidden;
    if (e.row_bytes != expected) f["row_bytes"].fail("is not " + std::to_string(expected));
    if (e.file.bytes != m_.vocab_size * e.row_bytes) {  // both small: no overflow
      f["bytes"].fail("is not model.vocab_size x row_bytes");
    }
  }

  void read_layers(const JsonField& f) {
    if (f.array_size() != m_.num_layers) f.fail("does not have model.num_layers entries");
    for (size_t i = 0; i < m_.num_layers; ++i) {
      const JsonField layer = f.at(i);
      layer.expect_members({"mixer", "dense"}, {"experts"});
      LayerSpec spec;
      spec.mixer = read_mixer(layer["mixer"]);
      spec.dense = read_dense_program(layer["dense"]);
      dense_bytes_.add(spec.dense.bytes, layer["dense"]["bytes"]);
      if (layer.has("experts")) {
        spec.experts = read_experts(layer["experts"]);
        spec.variants = read_variants(layer["experts"]);
      }
      m_.layers.push_back(std::move(spec));
    }
  }

  MixerSpec read_mixer(const JsonField& f) {
    f.expect_object();
    if (!f.has("kind")) f.fail("does not have the member \"kind\"");
    if (f["kind"].one_of({"attention", "convolution"}, ErrorCode::kUnsupported) == "convolution") {
      f.expect_members({"kind", "kernel", "width"});
      return ConvolutionSpec{f["kernel"].integer32(2, 16), f["width"].integer32(1, 1u << 20)};
    }
    f.expect_members({"kind", "window"},
                     {"num_heads", "num_kv_heads", "head_dim", "scale", "rope"});
    AttentionSpec spec = m_.attention;
    spec.window = f["window"].integer32(0, 0xffffffff);
    read_heads(f, &spec);
    return spec;
  }

  LayerExperts read_experts(const JsonField& f) {
    f.expect_members({"path", "bytes", "sha256", "programs"}, {"delegate", "variants"});
    return read_shard(f);
  }

  // A further precision of a layer's experts; the first layer with experts says whether there is
  // one.
  std::vector<LayerExperts> read_variants(const JsonField& experts) {
    std::vector<ExpertPrecision> precisions = {base_precision()};
    std::vector<LayerExperts> variants;
    if (experts.has("variants")) {
      const JsonField f = experts["variants"];
      if (f.array_size() == 0) f.fail("is empty");
      if (f.array_size() >= ExpertKey::kVariants)
        f.fail("has several entries, and this build runs experts in at most two precisions",
               ErrorCode::kUnsupported);
      const JsonField one = f.at(0);
      one.expect_members({"quantization", "path", "bytes", "sha256", "programs"},
                         {"delegate", "group_size"});
      precisions.push_back(read_precision(one));
      if (precisions[1].quantization == precisions[0].quantization)
        one["quantization"].fail("names a precision of these experts twice");
      variants.push_back(read_shard(one));
    }
    if (m_.precisions.empty()) m_.precisions = precisions;
    if (m_.precisions != precisions) experts.fail("has other variants than the layers before it");
    return variants;
  }

  ExpertPrecision base_precision() const {
    const Quantization& q = m_.quantization;
    return {q.experts, q.experts == kGrouped ? q.group_size : 0};
  }

  static ExpertPrecision read_precision(const JsonField& f) {
    ExpertPrecision precision;
    precision.quantization = f["quantization"].one_of(kQuantizations, ErrorCode::kUnsupported);
    if ((precision.quantization == kGrouped) != f.has("group_size"))
      f.fail("needs a group_size if and only if its quantization is 8da4w");
    if (f.has("group_size")) precision.group_size = read_group_size(f["group_size"]);
    return precision;
  }

  LayerExperts read_shard(const JsonField& f) {
    LayerExperts experts;
    experts.shard = read_file_members(f, 1);
    experts.delegate = read_program_delegate(f);
    const JsonField programs = f["programs"];
    if (programs.array_size() != m_.moe.num_experts) {
      programs.fail("does not have moe.num_experts entries");
    }
    uint64_t end = 0;
    for (size_t i = 0; i < m_.moe.num_experts; ++i) {
      const JsonField p = programs.at(i);
      p.expect_members({"offset", "bytes", "sha256"});
      ExpertProgram program;
      program.offset = p["offset"].integer(0, kMaxInteger);
      program.bytes = p["bytes"].integer(1, kMaxInteger);
      program.sha256 = read_sha256(p["sha256"]);
      if (program.offset % kBlobAlignment != 0) p["offset"].fail("is not a multiple of 16384");
      if (program.offset < end) p["offset"].fail("overlaps or precedes the program before it");
      end = program.offset + program.bytes;  // below 2^54
      if (end > experts.shard.bytes) p["bytes"].fail("reaches beyond the end of the shard");
      expert_bytes_.add(program.bytes, p["bytes"]);
      largest_expert_ = std::max(largest_expert_, program.bytes);
      experts.programs.push_back(program);
    }
    if (experts.shard.bytes != align_up(end, kBlobAlignment)) {
      f["bytes"].fail("is not the end of the last program rounded up to 16384");
    }
    return experts;
  }

  void read_files(const JsonField& f) {
    const size_t count = f.array_size();
    for (size_t i = 0; i < count; ++i) m_.files.push_back(read_file(f.at(i), 0));
  }

  void read_memory(const JsonField& f) {
    f.expect_members(
        {"dense_bytes", "embedding_bytes", "expert_bytes", "token_cycle_bytes", "experts_bytes"});
    const auto expect = [&f](const char* member, uint64_t expected) {
      const uint64_t stated = f[member].integer(0, kMaxInteger);
      if (stated != expected) {
        f[member].fail("is " + std::to_string(stated) + ", the entries give " +
                       std::to_string(expected));
      }
      return stated;
    };
    const uint64_t used_per_token = static_cast<uint64_t>(m_.num_moe_layers()) * m_.moe.top_k;
    if (used_per_token > 0 && largest_expert_ > kMaxInteger / used_per_token) {
      f["token_cycle_bytes"].fail("would exceed 2^53");
    }
    m_.memory.dense_bytes = expect("dense_bytes", dense_bytes_.total());
    m_.memory.embedding_bytes = expect("embedding_bytes", m_.embedding.file.bytes);
    m_.memory.expert_bytes = expect("expert_bytes", largest_expert_);
    m_.memory.token_cycle_bytes = expect("token_cycle_bytes", used_per_token * largest_expert_);
    m_.memory.experts_bytes = expect("experts_bytes", expert_bytes_.total());
  }

  FileRef read_file(const JsonField& f, uint64_t min_bytes) {
    f.expect_members({"path", "bytes", "sha256"});
    return read_file_members(f, min_bytes);
  }

  FileRef read_file_members(const JsonField& f, uint64_t min_bytes) {
    FileRef file;
    file.path = f["path"].text(200);
    check_path(file.path, f["path"]);
    if (!paths_.insert(file.path).second) {
      f["path"].fail("is listed twice: " + in_quotes(file.path));
    }
    file.bytes = f["bytes"].integer(min_bytes, kMaxInteger);
    file.sha256 = read_sha256(f["sha256"]);
    return file;
  }

  static Sha256Digest read_sha256(const JsonField& f) {
    Sha256Digest digest;
    if (!parse_hex(f.text(64), &digest)) f.fail("is not 64 lower-case hexadecimal digits");
    return digest;
  }

  JsonField root_;
  Manifest m_;
  std::set<std::string> paths_;
  Sum dense_bytes_;
  Sum expert_bytes_;
  uint64_t largest_expert_ = 0;
};

}  // namespace

const char* delegate_name(Delegate delegate) {
  switch (delegate) {
    case Delegate::kXnnpack:
      return "xnnpack";
    case Delegate::kPortable:
      return "portable";
  }
  return "";  // not reached: the compiler checks that all are listed
}

uint64_t Manifest::expert_bytes(uint32_t variant) const {
  uint64_t largest = 0;
  for (const uint32_t layer : moe_layers())
    for (const ExpertProgram& program : experts(layer, variant).programs)
      largest = std::max(largest, program.bytes);
  return largest;
}

std::vector<ShardKey> Manifest::shards() const {
  std::vector<ShardKey> keys;
  for (const uint32_t layer : moe_layers())
    for (uint32_t variant = 0; variant < precisions.size(); ++variant)
      keys.push_back({layer, variant});
  return keys;
}

std::vector<uint32_t> Manifest::moe_layers() const {
  std::vector<uint32_t> numbers;
  for (uint32_t layer = 0; layer < layers.size(); ++layer)
    if (layers[layer].experts) numbers.push_back(layer);
  return numbers;
}

Manifest parse_manifest(const std::string& text, const std::string& file) {
  if (text.size() > kMaxManifestBytes) {
    throw Error(ErrorCode::kBundleInvalid, file, "is larger than 64 MiB",
                "Export the bundle again");
  }
  const nlohmann::json document = parse_strict_json(text, file);
  Manifest manifest = Reader(JsonField(document, "", file)).read();
  manifest.path = file;
  manifest.bundle_hash = to_hex(sha256(text.data(), text.size()));
  return manifest;
}

}  // namespace moe_mobile
