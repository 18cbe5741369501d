// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "bundle/bundle.h"
#include "decoder/attention_mixer.h"
#include "decoder/embedding.h"
#include "engine/dense_programs.h"
#include "engine/expert_stream.h"
#include "executorch/thread_pool.h"
#include "routing/router.h"

namespace moe_mobile {

// The model: from token ids to logits. Prompts go through in batches, one layer after the other,
// with tokens grouped by expert; decoding goes one token at a time.
class Decoder {
 public:
  Decoder(const Bundle& bundle, std::unique_ptr<DensePrograms> dense,
          std::unique_ptr<ExpertStream> experts, uint32_t context, ParallelFor parallel);

  // Bytes of the buffers a decoder of this model allocates, apart from the KV cache.
  static uint64_t buffer_bytes(const Manifest& manifest);

  uint32_t position() const { return position_; }
  uint32_t context() const { return context_; }
  ExpertStream& experts() { return *experts_; }
  // Forgets the conversation. What is cached stays.
  void clear();

  // After each batch of a prompt: how many tokens it had, and what they cost. May throw to stop.
  using BatchDone = std::function<void(uint32_t tokens, const TokenMetrics& metrics)>;
  // Appends prompt tokens. kUsage beyond the context, or for a token outside the vocabulary.
  void prefill(Span<const uint32_t> tokens, const BatchDone& batch_done);
  // Appends one token.
  TokenMetrics decode(uint32_t token);
  // Logits [vocab] after the last token appended.
  const float* logits(TokenMetrics* metrics);

 private:
  void require_room(size_t tokens) const;
  void begin(Span<const uint32_t> tokens);
  TokenMetrics prefill_batch(Span<const uint32_t> tokens, uint32_t first_row);
  void attend(uint32_t layer, uint32_t rows, TokenMetrics* metrics);
  void decode_experts(uint32_t layer, TokenMetrics* metrics);
  void prefill_experts(uint32_t layer, uint32_t rows, uint32_t first_row, TokenMetrics* metrics);
  void add_experts(uint32_t rows);

  const Manifest& manifest_;
  std::unique_ptr<DensePrograms> dense_;
  std::unique_ptr<ExpertStream> experts_;
  EmbeddingTable embedding_;
  AttentionMixer mixer_;
  ParallelFor parallel_;
  uint32_t context_;
  uint32_t position_ = 0;
  uint32_t last_row_ = 0;

  std::vector<uint32_t> moe_layers_;
  // [max_batch, ...]
  std::vector<float> x_, q_, k_, v_, attention_, h_, router_logits_;
  std::vector<float>
      outputs_;  // [max_batch, top_k, hidden]: by token and rank, or by expert in a prompt
  std::vector<float> gathered_;  // [max_batch x top_k, hidden]: a prompt's rows by expert
  std::vector<float> logits_;
  std::vector<Selection> selections_;  // [max_batch]
  std::vector<uint32_t> output_rows_;  // [max_batch, top_k]: where an output lies
  std::vector<uint32_t> history_;      // of the prompt: [tokens, moe layers, top_k]
  std::vector<ExpertJob> jobs_;
};

}  // namespace moe_mobile
