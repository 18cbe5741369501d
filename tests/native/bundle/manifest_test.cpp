// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "bundle/manifest.h"

#include <gtest/gtest.h>

#include <random>

#include "base/expect_error.h"
#include "bundle/sample_bundle.h"

namespace moe_mobile {
namespace {

using nlohmann::json;
using testing::SampleBundle;

TEST(Manifest, ReadsEveryField) {
  SampleBundle sample;
  sample.json()["model"]["bos_token_id"] = 9;
  const Manifest m = parse_manifest(sample.text(), "bundle.json");
  EXPECT_EQ(m.name, "sample");
  EXPECT_EQ(m.family, "qwen3_moe");
  EXPECT_EQ(m.vocab_size, 10u);
  EXPECT_EQ(m.hidden_size, 6u);
  EXPECT_EQ(m.num_layers, 3u);
  EXPECT_EQ(m.context_length, 64u);
  EXPECT_EQ(m.bos_token_id, 9u);
  EXPECT_EQ(m.eos_token_ids, (std::vector<uint32_t>{1, 3}));
  EXPECT_EQ(m.num_parameters, 1000u);
  EXPECT_EQ(m.dense_intermediate_size, 0u);
  EXPECT_EQ(m.attention.num_heads, 4u);
  EXPECT_EQ(m.attention.num_kv_heads, 2u);
  EXPECT_EQ(m.attention.head_dim, 4u);
  EXPECT_EQ(m.attention.scale, 0.5);
  EXPECT_EQ(m.attention.inverse_frequencies, (std::vector<double>{1.0, 0.01}));
  EXPECT_EQ(m.attention.amplitude, 1.0);
  EXPECT_FALSE(m.attention.kv_float32);
  EXPECT_EQ(m.moe.num_experts, 4u);
  EXPECT_EQ(m.moe.top_k, 2u);
  EXPECT_EQ(m.moe.intermediate_size, 8u);
  EXPECT_TRUE(m.moe.renormalize);
  EXPECT_EQ(m.quantization.experts, "8da4w");
  EXPECT_EQ(m.quantization.dense, "fp32");
  EXPECT_EQ(m.quantization.head, "8da8w");
  EXPECT_EQ(m.quantization.embedding, "int8");
  EXPECT_EQ(m.quantization.group_size, 32u);
  EXPECT_EQ(m.delegate, Delegate::kXnnpack);
  EXPECT_EQ(m.executorch_version, "1.5.1");
  EXPECT_EQ(m.max_batch, 16u);
  EXPECT_EQ(m.embedding.file.path, "embedding.bin");
  EXPECT_EQ(m.embedding.file.bytes, 120u);
  EXPECT_TRUE(m.embedding.int8);
  EXPECT_EQ(m.embedding.row_bytes, 12u);
  ASSERT_EQ(m.layers.size(), 3u);
  EXPECT_EQ(std::get<AttentionSpec>(m.layers[2].mixer).window, 8u);
  EXPECT_EQ(m.layers[1].dense.path, "dense/layer-01.pte");
  EXPECT_FALSE(m.layers[1].experts.has_value());
  EXPECT_EQ(m.layers[0].experts->programs.size(), 4u);
  EXPECT_EQ(m.layers[0].experts->programs[3].offset, 4 * kBlobAlignment);
  EXPECT_EQ(to_hex(m.layers[0].experts->programs[3].sha256),
            sample.json()["layers"][0]["experts"]["programs"][3]["sha256"]);
  EXPECT_EQ(m.head.path, "dense/head.pte");
  EXPECT_EQ(m.files.size(), 2u);
  EXPECT_EQ(m.memory.expert_bytes, SampleBundle::program(0, 2).size());
  EXPECT_EQ(m.memory.token_cycle_bytes, 4 * m.memory.expert_bytes);
  EXPECT_EQ(m.num_moe_layers(), 2u);
  const std::string text = sample.text();
  EXPECT_EQ(m.bundle_hash, to_hex(sha256(text.data(), text.size())));
}

TEST(Manifest, ReadsRouters) {
  SampleBundle sample;
  json& router = sample.json()["moe"]["router"];
  const RouterSpec plain = parse_manifest(sample.text(), "b").moe;
  EXPECT_EQ(plain.scoring, Scoring::kSoftmax);
  EXPECT_EQ(plain.scale, 1.0f);
  EXPECT_EQ(plain.epsilon, 0.0f);
  EXPECT_EQ(plain.groups, 1u);
  EXPECT_EQ(plain.top_groups, 1u);
  EXPECT_TRUE(plain.bias.empty());
  router = {{"score", "sigmoid"}, {"renormalize", true}, {"scale", 2.5},
            {"epsilon", 1e-6},    {"groups", 2},         {"top_groups", 1}};
  router["bias"] = {{0.0, 1.5, -2.0, 3.0}, {4.0, 5.0, 6.0, 0.1}};  // layer 1 has no experts
  const RouterSpec spec = parse_manifest(sample.text(), "b").moe;
  EXPECT_EQ(spec.num_experts, 4u);
  EXPECT_EQ(spec.top_k, 2u);
  EXPECT_EQ(spec.scoring, Scoring::kSigmoid);
  EXPECT_EQ(spec.scale, 2.5f);
  EXPECT_EQ(spec.epsilon, 1e-6f);
  EXPECT_EQ(spec.groups, 2u);
  EXPECT_EQ(spec.top_groups, 1u);
  EXPECT_EQ(spec.bias, (std::vector<float>{0, 1.5, -2, 3, 4, 5, 6, 0.1f}));
  router["bias"].push_back({1, 2, 3, 4});
  EXPECT_ERROR(parse_manifest(sample.text(), "b"), ErrorCode::kBundleInvalid,
               "moe.router.bias does not have an entry for each layer with experts");
}

TEST(Manifest, ProgramsHaveADelegateOfTheirOwnOrTheManifests) {
  SampleBundle sample;
  sample.json()["delegate"]["name"] = "portable";
  sample.json()["layers"][1]["dense"]["delegate"] = "xnnpack";
  sample.json()["layers"][2]["experts"]["delegate"] = "xnnpack";
  const Manifest m = parse_manifest(sample.text(), "bundle.json");
  EXPECT_EQ(m.delegate, Delegate::kPortable);
  EXPECT_EQ(m.layers[0].dense.delegate, Delegate::kPortable);
  EXPECT_EQ(m.layers[0].experts->delegate, Delegate::kPortable);
  EXPECT_EQ(m.layers[1].dense.delegate, Delegate::kXnnpack);
  EXPECT_EQ(m.layers[2].dense.delegate, Delegate::kPortable);
  EXPECT_EQ(m.layers[2].experts->delegate, Delegate::kXnnpack);
  EXPECT_EQ(m.head.delegate, Delegate::kPortable);
}

TEST(Manifest, LayersHaveMixersOfTheirOwn) {
  SampleBundle sample;
  json& layers = sample.json()["layers"];
  layers[0]["mixer"] = {{"kind", "convolution"}, {"kernel", 3}, {"width", 7}};
  layers[1]["mixer"] = {{"kind", "attention"},
                        {"window", 5},
                        {"num_heads", 6},
                        {"num_kv_heads", 3},
                        {"head_dim", 8},
                        {"scale", 0.25},
                        {"rope", {{"inverse_frequencies", {0.5, 0.25, 0.125}}, {"amplitude", 2}}}};
  const Manifest m = parse_manifest(sample.text(), "bundle.json");
  const auto& convolution = std::get<ConvolutionSpec>(m.layers[0].mixer);
  EXPECT_EQ(convolution.kernel, 3u);
  EXPECT_EQ(convolution.width, 7u);
  const auto& own = std::get<AttentionSpec>(m.layers[1].mixer);
  EXPECT_EQ(own.window, 5u);
  EXPECT_EQ(own.num_heads, 6u);
  EXPECT_EQ(own.num_kv_heads, 3u);
  EXPECT_EQ(own.head_dim, 8u);
  EXPECT_EQ(own.scale, 0.25);
  EXPECT_EQ(own.inverse_frequencies, (std::vector<double>{0.5, 0.25, 0.125}));
  EXPECT_EQ(own.amplitude, 2.0);
  EXPECT_EQ(own.kv_float32, m.attention.kv_float32);
  const auto& common = std::get<AttentionSpec>(m.layers[2].mixer);
  EXPECT_EQ(common.num_heads, m.attention.num_heads);
  EXPECT_EQ(common.head_dim, m.attention.head_dim);
  EXPECT_EQ(common.inverse_frequencies, m.attention.inverse_frequencies);
}

TEST(Manifest, ReadsAFurtherPrecisionOfTheExperts) {
  SampleBundle sample;
  EXPECT_EQ(parse_manifest(sample.text(), "b").precisions,
            (std::vector<ExpertPrecision>{{"8da4w", 32}}));
  for (const int layer : {0, 2}) {
    json& experts = sample.json()["layers"][layer]["experts"];
    json low = experts;
    low["path"] = "experts/low-" + std::to_string(layer);
    low["quantization"] = "8da8w";
    experts["variants"] = json::array({low});
  }
  json& memory = sample.json()["memory"];
  memory["experts_bytes"] = 2 * memory["experts_bytes"].get<uint64_t>();
  const Manifest m = parse_manifest(sample.text(), "b");
  EXPECT_EQ(m.precisions, (std::vector<ExpertPrecision>{{"8da4w", 32}, {"8da8w", 0}}));
  EXPECT_EQ(m.experts(2, 0).shard.path, "experts/layer-02.shard");
  EXPECT_EQ(m.experts(2, 1).shard.path, "experts/low-2");
  EXPECT_EQ(m.experts(2, 1).programs.size(), 4u);
  EXPECT_EQ(m.expert_bytes(1), m.memory.expert_bytes);

  json& variants = sample.json()["layers"][2]["experts"]["variants"];
  json& one = variants[0];
  one["quantization"] = "fp32";
  EXPECT_ERROR(parse_manifest(sample.text(), "b"), ErrorCode::kBundleInvalid,
               "layers[2].experts has other variants than the layers before it");
  one["quantization"] = "8da4w";
  one["group_size"] = 64;
  EXPECT_ERROR(
      parse_manifest(sample.text(), "b"), ErrorCode::kBundleInvalid,
      "layers[2].experts.variants[0].quantization names a precision of these experts twice");
  variants.push_back(variants[0]);
  EXPECT_ERROR(parse_manifest(sample.text(), "b"), ErrorCode::kUnsupported,
               "layers[2].experts.variants has several entries, and this build runs experts in at "
               "most two precisions");
}

// One change of a valid manifest, and the start of the cause it must give.
struct Change {
  const char* pointer;
  json value;  // discarded: the member is removed
  const char* cause;
  ErrorCode code = ErrorCode::kBundleInvalid;
};

const json kRemove(json::value_t::discarded);
constexpr ErrorCode kUnsupported = ErrorCode::kUnsupported;

TEST(Manifest, RefusesEveryViolationByItsField) {
  const std::string digest(64, 'a');
  const json file = {{"path", "config.json"}, {"bytes", 1}, {"sha256", digest}};
  const json huge = uint64_t{1} << 54;
  const std::vector<Change> changes = {
      {"/format", "gguf", "format is"},
      {"/format", kRemove, "the document has no"},
      {"/version", 2, "version is 2", kUnsupported},
      {"/version", 1.0, "version is not a non-negative integer"},
      {"/extra", 1, "the document has the unknown member \"extra\""},
      {"/head", kRemove, "the document does not have the member \"head\""},
      {"/model", 5, "model is not an object"},
      {"/model/name", "", "model.name is empty"},
      {"/model/name", "a\nb", "model.name has a control character"},
      {"/model/name", std::string(201, 'x'), "model.name is longer"},
      {"/model/vocab_size", 0, "model.vocab_size is 0, not in 1..16777216"},
      {"/model/vocab_size", -5, "model.vocab_size is not a non-negative integer"},
      {"/model/vocab_size", 10.0, "model.vocab_size is not a non-negative integer"},
      {"/model/vocab_size", "10", "model.vocab_size is not a non-negative integer"},
      {"/model/vocab_size", 11, "embedding.bytes is not model.vocab_size x row_bytes"},
      {"/model/hidden_size", (1 << 20) + 1, "model.hidden_size is"},
      {"/model/hidden_size", 9, "embedding.row_bytes is not 16"},
      {"/model/num_layers", 4097, "model.num_layers is"},
      {"/model/num_layers", 4, "layers does not have model.num_layers entries"},
      {"/model/context_length", 0, "model.context_length is"},
      {"/model/bos_token_id", 10, "model.bos_token_id is 10, not in 0..9"},
      {"/model/bos_token_id", kRemove, "model does not have the member \"bos_token_id\""},
      {"/model/eos_token_ids", {3, 1}, "model.eos_token_ids[1] is not above"},
      {"/model/eos_token_ids", {3, 3}, "model.eos_token_ids[1] is not above"},
      {"/model/eos_token_ids", {10}, "model.eos_token_ids[0] is 10"},
      {"/model/eos_token_ids", std::vector<int>(17, 1), "model.eos_token_ids has more than 16"},
      {"/model/num_parameters", huge, "model.num_parameters is"},
      {"/model/dense_intermediate_size", -1, "model.dense_intermediate_size is"},
      {"/moe/router/score", "tanh", "moe.router.score is", kUnsupported},
      {"/moe/router/scale", 0, "moe.router.scale is out of range"},
      {"/moe/router/epsilon", 2, "moe.router.epsilon is out of range"},
      {"/moe/router/groups", 3, "moe.router.groups is not a divisor"},
      {"/moe/router/groups", 4, "moe.router has groups that leave fewer than moe.top_k"},
      {"/moe/router/top_groups", 2, "moe.router.top_groups is 2, not in 1..1"},
      {"/moe/router/bias", json::array(), "moe.router.bias needs the score sigmoid"},
      {"/attention/num_heads", 3, "attention.num_heads is not a multiple"},
      {"/attention/num_kv_heads", 0, "attention.num_kv_heads is 0"},
      {"/attention/head_dim", 4097, "attention.head_dim is"},
      {"/attention/head_dim", 3, "attention.rope.inverse_frequencies rotates more"},
      {"/attention/scale", 0, "attention.scale is not positive"},
      {"/attention/scale", 1e300, "attention.scale is beyond"},
      {"/attention/scale", true, "attention.scale is not a number"},
      {"/attention/rope/inverse_frequencies/1", nullptr,
       "attention.rope.inverse_frequencies[1] is not a number"},
      {"/attention/rope/base", 10000, "attention.rope has the unknown member \"base\""},
      {"/attention/kv_dtype", "bfloat16", "attention.kv_dtype is \"bfloat16\""},
      {"/moe/num_experts", 5, "layers[0].experts.programs does not have"},
      {"/moe/num_experts", 65537, "moe.num_experts is"},
      {"/moe/top_k", 5, "moe.top_k is 5, not in 1..4"},
      {"/moe/intermediate_size", 0, "moe.intermediate_size is"},
      {"/moe/router/renormalize", 1, "moe.router.renormalize is not true or false"},
      {"/quantization/experts", "2bit", "quantization.experts is \"2bit\"", kUnsupported},
      {"/quantization/embedding", "fp32", "embedding.dtype differs"},
      {"/quantization/group_size", 0, "quantization.group_size is not 32"},
      {"/quantization/group_size", 48, "quantization.group_size is not 32"},
      {"/quantization/experts", "fp32", "quantization.group_size is not 0"},
      {"/delegate/name", "qnn", "delegate.name is \"qnn\", a delegate this build does not support",
       kUnsupported},
      {"/layers/0/dense/delegate", "qnn", "layers[0].dense.delegate is \"qnn\"", kUnsupported},
      {"/layers/0/experts/delegate", 1, "layers[0].experts.delegate is not a string"},
      {"/head/delegate", nullptr, "head.delegate is not a string"},
      {"/embedding/delegate", "portable", "embedding has the unknown member \"delegate\""},
      {"/max_batch", 0, "max_batch is 0"},
      {"/embedding/bytes", 119, "embedding.bytes is not"},
      {"/embedding/row_bytes", 11, "embedding.row_bytes is not 12"},
      {"/layers/0/mixer/kind", "mamba", "layers[0].mixer.kind is", kUnsupported},
      {"/layers/0/mixer/window", 1ull << 32, "layers[0].mixer.window is"},
      {"/layers/0/mixer/kind", kRemove, "layers[0].mixer does not have the member \"kind\""},
      {"/layers/0/mixer", 5, "layers[0].mixer is not an object"},
      {"/layers/0/mixer/kernel", 3, "layers[0].mixer has the unknown member \"kernel\""},
      {"/layers/0/mixer/num_heads", 3, "layers[0].mixer.num_heads is not a multiple"},
      {"/layers/0/mixer/num_kv_heads", 3, "layers[0].mixer.num_kv_heads is not a divisor"},
      {"/layers/0/mixer/num_kv_heads", 0, "layers[0].mixer.num_kv_heads is 0"},
      {"/layers/0/mixer/head_dim", 3, "layers[0].mixer.head_dim is less than"},
      {"/layers/0/mixer/scale", 0, "layers[0].mixer.scale is not positive"},
      {"/layers/0/mixer/rope",
       {{"inverse_frequencies", {1, 1, 1}}, {"amplitude", 1}},
       "layers[0].mixer.rope.inverse_frequencies rotates more"},
      {"/layers/0/mixer/kv_dtype", "float16", "layers[0].mixer has the unknown"},
      {"/layers/0/mixer",
       {{"kind", "convolution"}, {"kernel", 3}, {"width", 0}},
       "layers[0].mixer.width is 0"},
      {"/layers/0/mixer",
       {{"kind", "convolution"}, {"kernel", 1}, {"width", 6}},
       "layers[0].mixer.kernel is 1, not in 2..16"},
      {"/layers/0/mixer",
       {{"kind", "convolution"}, {"kernel", 17}, {"width", 6}},
       "layers[0].mixer.kernel is 17"},
      {"/layers/0/mixer",
       {{"kind", "convolution"}, {"kernel", 3}},
       "layers[0].mixer does not have the member \"width\""},
      {"/layers/0/mixer",
       {{"kind", "convolution"}, {"kernel", 3}, {"width", 6}, {"window", 0}},
       "layers[0].mixer has the unknown member \"window\""},
      {"/layers/1/experts", nullptr, "layers[1].experts is not an object"},
      {"/layers/0/dense/bytes", 0, "layers[0].dense.bytes is 0"},
      {"/layers/0/dense/sha256", std::string(64, 'A'), "layers[0].dense.sha256 is not 64"},
      {"/layers/0/dense/sha256", std::string(63, 'a'), "layers[0].dense.sha256 is not 64"},
      {"/layers/0/dense/path", "/etc/passwd", "layers[0].dense.path has an empty component"},
      {"/layers/0/dense/path", "../x", "layers[0].dense.path has the component \"..\""},
      {"/layers/0/dense/path", "a/./x", "layers[0].dense.path has the component \".\""},
      {"/layers/0/dense/path", "a//x", "layers[0].dense.path has an empty component"},
      {"/layers/0/dense/path", "a/x/", "layers[0].dense.path has an empty component"},
      {"/layers/0/dense/path", "a\\x", "layers[0].dense.path has a character outside"},
      {"/layers/0/dense/path", "a x", "layers[0].dense.path has a character outside"},
      {"/layers/0/dense/path", std::string("a\0x", 3), "layers[0].dense.path has a control"},
      {"/layers/0/dense/path", "\xc3\xa4", "layers[0].dense.path has a character outside"},
      {"/layers/0/dense/path", std::string(201, 'a'), "layers[0].dense.path is longer than 200"},
      {"/layers/0/dense/path", ".packed/x", "layers[0].dense.path lies in .packed"},
      {"/layers/0/dense/path", "bundle.json", "layers[0].dense.path lists bundle.json"},
      {"/layers/0/dense/path", "dense/head.pte", "head.path is listed twice"},
      {"/layers/0/experts/programs/1/offset", 0, "layers[0].experts.programs[1].offset overlaps"},
      {"/layers/0/experts/programs/1/offset", 16385,
       "layers[0].experts.programs[1].offset is not a multiple"},
      {"/layers/0/experts/programs/1/offset", huge, "layers[0].experts.programs[1].offset is"},
      {"/layers/0/experts/programs/1/bytes", 16385,
       "layers[0].experts.programs[2].offset overlaps"},
      {"/layers/2/experts/programs/3/bytes", 16385,
       "layers[2].experts.programs[3].bytes reaches beyond"},
      {"/layers/2/experts/programs/3/bytes", 0, "layers[2].experts.programs[3].bytes is 0"},
      {"/layers/2/experts/programs/3/sha256", "x", "layers[2].experts.programs[3].sha256"},
      {"/layers/2/experts/programs/3/name", "x", "layers[2].experts.programs[3] has the unknown"},
      {"/layers/2/experts/bytes", 6 * 16384, "layers[2].experts.bytes is not the end"},
      {"/layers/2/experts/bytes", 5 * 16384 - 1, "layers[2].experts.bytes is not the end"},
      {"/files/1", file, "files[1].path is listed twice"},
      {"/files/0/bytes", -1, "files[0].bytes is not a non-negative integer"},
      {"/memory/dense_bytes", 1, "memory.dense_bytes is 1, the entries give"},
      {"/memory/embedding_bytes", 1, "memory.embedding_bytes is 1"},
      {"/memory/expert_bytes", 1, "memory.expert_bytes is 1"},
      {"/memory/token_cycle_bytes", 1, "memory.token_cycle_bytes is 1"},
      {"/memory/experts_bytes", 1, "memory.experts_bytes is 1"},
      {"/provenance", json::array(), "provenance is not an object"},
  };
  SampleBundle sample;
  for (const Change& change : changes) {
    json changed = sample.json();
    const json::json_pointer pointer(change.pointer);
    if (change.value.is_discarded()) {
      changed[pointer.parent_pointer()].erase(pointer.back());
    } else {
      changed[pointer] = change.value;
    }
    const Error error =
        testing::error_of([&] { parse_manifest(changed.dump(2), "x/bundle.json"); });
    EXPECT_EQ(error.cause().rfind(change.cause, 0), 0u) << change.pointer << ": " << error.what();
    EXPECT_STREQ(to_string(error.code()), to_string(change.code)) << change.pointer;
    EXPECT_EQ(error.file(), "x/bundle.json");
    EXPECT_FALSE(error.remedy().empty());
  }
}

TEST(Manifest, AFloat32CacheGoesWithAllDensePrograms) {
  SampleBundle sample;
  sample.json()["attention"]["kv_dtype"] = "float32";
  for (const char* dense : {"fp32", "8da8w"}) {
    sample.json()["quantization"]["dense"] = dense;
    EXPECT_TRUE(parse_manifest(sample.text(), "b").attention.kv_float32) << dense;
  }
}

TEST(Manifest, SumsCannotOverflow) {
  SampleBundle sample;
  const uint64_t limit = uint64_t{1} << 53;
  sample.json()["layers"][0]["dense"]["bytes"] = limit;
  EXPECT_ERROR(parse_manifest(sample.text(), "b"), ErrorCode::kBundleInvalid,
               "layers[1].dense.bytes makes the sum of sizes exceed");
  SampleBundle other;
  json& experts = other.json()["layers"][0]["experts"];
  experts["programs"][3]["bytes"] =
      limit - (uint64_t{4} << 14);  // one program of nearly 2^53 bytes
  experts["bytes"] = limit;
  EXPECT_ERROR(parse_manifest(other.text(), "b"), ErrorCode::kBundleInvalid, "exceed");
}

TEST(Manifest, RefusesWhatIsNotStrictJson) {
  SampleBundle sample;
  const std::string good = sample.text();
  const auto refuses = [](const std::string& text, const std::string& cause) {
    EXPECT_ERROR(parse_manifest(text, "b"), ErrorCode::kBundleInvalid, cause);
  };
  refuses("", "not valid JSON");
  refuses("[]", "not an object");
  refuses(good.substr(0, good.size() / 2), "not valid JSON");
  refuses(good + "x", "not valid JSON");
  refuses("\xef\xbb\xbf" + good, "byte order mark");
  refuses("{\"version\": 1," + good.substr(1), "the key \"version\" twice");
  refuses("{\"a\": {\"b\": 1, \"b\": 2}}", "the key \"b\" twice");
  refuses("{\"a\": \"\xff\"}", "not valid JSON");
  refuses("{\"a\": 1e999}", "beyond the range");
  refuses("{\"a\": NaN}", "not valid JSON");
  refuses("{\"a\": 1,}", "not valid JSON");
  refuses("// comment\n" + good, "not valid JSON");
  refuses(std::string(1 << 20, '['), "nested deeper");
  std::string objects;
  for (int i = 0; i < 100000; ++i) objects += "{\"a\":";
  refuses(objects, "nested deeper");
  std::string many = "[0";
  for (int i = 0; i < 4 << 20; ++i) many += ",0";
  refuses(many + "]", "too many values");
  refuses(std::string((64 << 20) + 1, ' '), "larger than 64 MiB");
}

TEST(Manifest, MessagesShowNoControlCharacters) {
  SampleBundle sample;
  sample.json()["\x1b[31m evil \xc3\xa4"] = 1;
  const Error error = testing::error_of([&] { parse_manifest(sample.text(), "b"); });
  for (const char c : std::string(error.what())) EXPECT_TRUE(c >= ' ' && c <= '~');
}

// Random damage to the text must end in a manifest or an Error, never anything else.
TEST(Manifest, SurvivesRandomDamage) {
  SampleBundle sample;
  const std::string good = sample.text();
  std::mt19937 random(11);
  int refused = 0;
  for (int round = 0; round < 1000; ++round) {
    std::string text = good;
    for (unsigned edits = 1 + random() % 3; edits > 0; --edits) {
      const size_t at = random() % text.size();
      switch (random() % 4) {
        case 0:
          text[at] = static_cast<char>(random());
          break;
        case 1:
          text.erase(at, 1 + random() % 40);
          break;
        case 2:
          text.insert(at, text.substr(random() % text.size(), 1 + random() % 40));
          break;
        default:
          text[at] = "0123456789-.e\"{}[],:"[random() % 20];
      }
      if (text.empty()) text = " ";
    }
    try {
      parse_manifest(text, "b");
    } catch (const Error& error) {
      ++refused;
      EXPECT_TRUE(error.code() == ErrorCode::kBundleInvalid ||
                  error.code() == ErrorCode::kUnsupported);
    }
  }
  EXPECT_GT(refused, 700);
}

}  // namespace
}  // namespace moe_mobile
