// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/parallel_for.h"
#include "bundle/bundle.h"
#include "decoder/embedding.h"
#include "decoder/mixers.h"
#include "engine/dense_programs.h"
#include "engine/expert_stream.h"
#include "engine/progress.h"
#include "routing/selector.h"

namespace moe_mobile {

// The model: from token ids to logits. A prompt goes through one layer after the other, in batches
// with tokens grouped by expert: each expert of a layer is read once for all batches if the cache
// can hold them. Decoding goes one token at a time.
class Decoder {
 public:
  Decoder(const Bundle& bundle, std::unique_ptr<DensePrograms> dense,
          std::unique_ptr<ExpertStream> experts, Selector selector, uint32_t context,
          ParallelFor parallel);

  uint32_t position() const { return position_; }
  uint32_t context() const { return context_; }
  ExpertStream& experts() { return *experts_; }
  const Selector& selector() const { return selector_; }
  // Reads the cached experts that are not in memory.
  void load_cached(const Progress& progress);
  // Forgets the conversation and sets the cache as the selector's settings say.
  void clear();
  // Sets how many experts each pool of the caches holds from now on, as Selector::resize(), and how
  // many memory holds in all, by variant.
  // REQUIRES: the selector allows it; called between tokens, or from the progress callback of a
  // prompt.
  void resize(uint32_t capacity, uint32_t low_capacity, Span<const uint32_t> places);
  // From now on appends the router's logits [rows, experts] of each MoE layer to `logits`, in the
  // order they are computed; null ends that.
  void record_router(std::vector<float>* logits) { recorded_ = logits; }
  // From now on uses these logits, [positions, MoE layers, experts] for every position that
  // follows, instead of the routers', which still run; null ends that.
  void replay_router(const float* logits) { replayed_ = logits; }

  // Appends prompt tokens. kUsage if they exceed the context, or for a token outside the
  // vocabulary. `progress` counts tokens, each a layer's part at a time; if it throws, the prompt
  // was not appended.
  TokenMetrics prefill(Span<const uint32_t> tokens, const Progress& progress);
  // Appends one token, or none if it throws.
  TokenMetrics decode(uint32_t token);
  // Logits [vocab] after the last token appended. kRuntime if one is NaN or infinite, as prefill()
  // and decode() throw it for a router's.
  const float* logits(TokenMetrics* metrics);

 private:
  void require_room(size_t tokens) const;
  void prefill_layers(size_t rows, float* x, TokenMetrics* metrics, const Progress& progress);
  // Runs one layer's dense programs and mixer for positions first .. first + rows - 1, x
  // [rows, hidden].
  void mix(uint32_t layer, uint32_t first, uint32_t rows, float* x, TokenMetrics* metrics);
  enum class Phase { kPrefill, kDecode };
  // Fills selections_ from router_logits_.
  void route(uint32_t layer, uint32_t first_position, uint32_t rows, Phase phase,
             TokenMetrics* metrics);
  void decode_experts(uint32_t layer, TokenMetrics* metrics);
  void prefill_experts(uint32_t layer, uint32_t rows, size_t first_row, bool last_batch, float* x,
                       TokenMetrics* metrics);
  void add_experts(uint32_t rows, float* x);
  // The cached experts, least recent first in each pool.
  std::vector<ExpertKey> cached() const;
  // A key of the selector, with the layer numbered as in the rest of the engine.
  ExpertKey physical(const ExpertKey& key) const {
    return {moe_layers_[key.layer], key.expert, key.variant};
  }
  // The layer's number among the layers with experts.
  size_t moe_index(uint32_t layer) const;

  const std::string directory_;
  const Manifest& manifest_;
  std::unique_ptr<DensePrograms> dense_;
  std::unique_ptr<ExpertStream> experts_;
  Selector selector_;
  EmbeddingTable embedding_;
  Mixers mixers_;
  ParallelFor parallel_;
  uint32_t context_;
  uint32_t position_ = 0;

  const std::vector<uint32_t> moe_layers_;
  std::vector<float> x_;       // [hidden]: the last token's
  std::vector<float> next_x_;  // [hidden]: of the token that is decoded
  // The inputs and outputs of a layer's mixer, and where each matrix begins, by layer.
  std::vector<float> mixer_inputs_, mixer_outputs_;
  std::vector<std::vector<float*>> inputs_of_, outputs_of_;
  // [max_batch, ...]
  std::vector<float> h_, router_logits_;
  // [max_batch, top_k, hidden]: by token and rank, or by expert in a prompt
  std::vector<float> outputs_;
  std::vector<float> gathered_;  // [max_batch x top_k, hidden]: a prompt's rows by expert
  std::vector<float> logits_;
  std::vector<Selection> selections_;  // [max_batch]
  std::vector<uint32_t> output_rows_;  // [max_batch, top_k]: where an output is
  std::vector<uint32_t> history_;      // of the prompt: [tokens, moe layers, top_k]
  std::vector<ExpertJob> jobs_;
  std::vector<ExpertKey> evicted_;  // by the token that is decoded, in the running layer
  std::vector<float>* recorded_ = nullptr;
  const float* replayed_ = nullptr;
};

}  // namespace moe_mobile
