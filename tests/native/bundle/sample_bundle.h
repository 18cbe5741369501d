// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "base/file.h"
#include "base/sha256.h"
#include "base/temporary_folder.h"

namespace moe_mobile::testing {

// A small, valid bundle whose "programs" are arbitrary bytes, for tests that do not run them.
class SampleBundle {
 public:
  static constexpr int kLayers = 3, kExperts = 4;  // layer 1 has a dense MLP

  // The bytes of a program.
  static std::string program(int layer, int expert) {
    return "program " + std::to_string(layer) + "/" + std::to_string(expert) +
           std::string(expert == 2 ? 17000 : 100, static_cast<char>('a' + expert));
  }

  SampleBundle() {
    json_ = nlohmann::json::parse(R"({
      "format": "moe-mobile-bundle", "version": 1,
      "model": {"name": "sample", "family": "qwen3_moe", "vocab_size": 10, "hidden_size": 6,
                "num_layers": 3, "context_length": 64, "bos_token_id": null,
                "eos_token_ids": [1, 3], "num_parameters": 1000,
                "dense_intermediate_size": 0},
      "attention": {"num_heads": 4, "num_kv_heads": 2, "head_dim": 4, "scale": 0.5,
                    "rope": {"inverse_frequencies": [1.0, 0.01], "amplitude": 1.0},
                    "kv_dtype": "float16"},
      "moe": {"num_experts": 4, "top_k": 2, "intermediate_size": 8,
              "router": {"score": "softmax", "renormalize": true}},
      "quantization": {"experts": "8da4w", "dense": "fp32", "head": "8da8w", "embedding": "int8",
                       "group_size": 32},
      "delegate": {"name": "xnnpack", "executorch": "1.5.1"},
      "max_batch": 16,
      "layers": [], "files": [],
      "provenance": {"source": "test", "anything": [1, {"goes": null}]}
    })");
    uint64_t dense = 0, experts_sum = 0, largest = 0;
    json_["embedding"] = add("embedding.bin", std::string(10 * 12, 'e'));
    json_["embedding"]["dtype"] = "int8";
    json_["embedding"]["row_bytes"] = 12;
    for (int layer = 0; layer < kLayers; ++layer) {
      const std::string number = std::to_string(layer);
      nlohmann::json entry;
      entry["mixer"] = {{"kind", "attention"}, {"window", layer == 2 ? 8 : 0}};
      entry["dense"] = add("dense/layer-0" + number + ".pte", "dense program " + number);
      dense += entry["dense"]["bytes"].get<uint64_t>();
      if (layer != 1) {
        std::string shard;
        nlohmann::json programs = nlohmann::json::array();
        for (int expert = 0; expert < kExperts; ++expert) {
          const std::string bytes = program(layer, expert);
          programs.push_back({{"offset", shard.size()},
                              {"bytes", bytes.size()},
                              {"sha256", to_hex(sha256(bytes.data(), bytes.size()))}});
          shard += bytes;
          shard.resize(align_up(shard.size(), kBlobAlignment), '\0');
          experts_sum += bytes.size();
          largest = std::max<uint64_t>(largest, bytes.size());
        }
        entry["experts"] = add("experts/layer-0" + number + ".shard", shard);
        entry["experts"]["programs"] = programs;
      }
      json_["layers"].push_back(entry);
    }
    json_["head"] = add("dense/head.pte", "head program");
    dense += json_["head"]["bytes"].get<uint64_t>();
    json_["files"].push_back(add("config.json", "{}"));
    json_["files"].push_back(add("empty.txt", ""));
    json_["memory"] = {{"dense_bytes", dense},
                       {"embedding_bytes", 120},
                       {"expert_bytes", largest},
                       {"token_cycle_bytes", 2 * 2 * largest},
                       {"experts_bytes", experts_sum}};
    write();
  }

  // The manifest; call write() after changing it.
  nlohmann::json& json() { return json_; }
  std::string text() const { return json_.dump(2) + "\n"; }
  void write() { write_file(file("bundle.json"), text()); }

  const std::string& path() const { return folder_.path(); }
  std::string file(const std::string& name) const { return folder_.file(name); }

 private:
  nlohmann::json add(const std::string& name, const std::string& bytes) {
    write_file(file(name), bytes);
    return {{"path", name},
            {"bytes", bytes.size()},
            {"sha256", to_hex(sha256(bytes.data(), bytes.size()))}};
  }

  TemporaryFolder folder_;
  nlohmann::json json_;
};

}  // namespace moe_mobile::testing
