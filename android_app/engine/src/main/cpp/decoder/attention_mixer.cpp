// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "decoder/attention_mixer.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/error.h"
#include "decoder/attention.h"

namespace moe_mobile {
namespace {

struct Rows {
  uint32_t cache = 0;  // rows of the KV cache
  uint32_t saved = 0;  // most rows that a step saves for rewind()
};

Rows rows_for(const AttentionSpec& spec, uint32_t context, uint32_t max_batch) {
  if (spec.window == 0) return {context, 0};
  const uint64_t ring = ring_rows(spec.window, max_batch);
  const uint32_t saved = spec.window - 1;
  if (ring + saved >= context) return {context, 0};  // wrapping around would save nothing
  return {static_cast<uint32_t>(ring), saved};
}

KvShape shape_for(const AttentionSpec& spec, uint32_t rows) {
  return {spec.num_kv_heads, spec.head_dim, rows, spec.kv_float32};
}

}  // namespace

MixerFacts AttentionMixer::facts_for(const AttentionSpec& spec, uint32_t context,
                                     uint32_t max_batch) {
  const uint32_t queries = spec.num_heads * spec.head_dim;
  const uint32_t keys = spec.num_kv_heads * spec.head_dim;
  const Rows rows = rows_for(spec, context, max_batch);
  MixerFacts facts;
  facts.input_widths = {queries, keys, keys};
  facts.output_widths = {queries};
  facts.state_bytes = KvCache::bytes_for(shape_for(spec, rows.cache)) +
                      KvCache::bytes_for(shape_for(spec, rows.saved));
  return facts;
}

AttentionMixer::AttentionMixer(std::string manifest_path, uint32_t layer, const AttentionSpec& spec,
                               uint32_t context, uint32_t max_batch,
                               std::shared_ptr<const Rope> rope)
    : Mixer(facts_for(spec, context, max_batch)),
      manifest_path_(std::move(manifest_path)),
      layer_(layer),
      num_heads_(spec.num_heads),
      scale_(static_cast<float>(spec.scale)),
      window_(spec.window),
      context_(context),
      rope_(std::move(rope)),
      cache_(shape_for(spec, rows_for(spec, context, max_batch).cache)) {}

void AttentionMixer::clear() {
  cache_.clear();
  saved_ = {};
  saved_count_ = 0;
}

void AttentionMixer::mark(uint32_t first, uint32_t count) {
  if (count > context_ || first > context_ - count) {
    throw Error(ErrorCode::kUsage, Setting{"context"},
                "of " + std::to_string(context_) + " positions is full",
                "Raise the context or shorten the prompt");
  }
  saved_count_ = 0;
  const uint32_t rows = cache_.shape().rows;
  if (first + count <= rows) return;  // nothing is overwritten
  // After a rewind the next query, at `first`, sees positions from `oldest` on. A step overwrites
  // the positions `rows` before its own.
  const uint32_t oldest = first - std::min(first, window_ - 1);
  const uint32_t overwritten_end = std::min(first, first + count - rows);
  if (overwritten_end <= oldest) return;
  saved_first_ = oldest;
  saved_count_ = overwritten_end - oldest;
  saved_.resize(saved_count_ * cache_.row_bytes());
  cache_.save(saved_first_, saved_count_, saved_.data());
}

void AttentionMixer::rewind() {
  if (saved_count_ > 0) cache_.restore(saved_first_, saved_count_, saved_.data());
}

void AttentionMixer::run(uint32_t first, uint32_t count, float* const* inputs,
                         float* const* outputs, const ParallelFor& parallel) {
  const KvShape& shape = cache_.shape();
  float* q = inputs[0];
  float* k = inputs[1];
  for (uint32_t row = 0; row < count; ++row) {
    rope_->apply(q + static_cast<size_t>(row) * num_heads_ * shape.head_dim, num_heads_,
                 first + row);
    rope_->apply(k + static_cast<size_t>(row) * shape.num_kv_heads * shape.head_dim,
                 shape.num_kv_heads, first + row);
  }
  if (!cache_.append(first, count, k, inputs[2]))
    throw Error(ErrorCode::kRuntime, manifest_path_,
                "a key or value of layer " + std::to_string(layer_) +
                    " is not finite, or beyond what a float16 KV cache holds (65504)",
                "Export the model again with a float32 KV cache: the export's setting `kv_dtype`, "
                "or its option of that name.");
  AttentionCall call;
  call.cache = &cache_;
  call.num_heads = num_heads_;
  call.scale = scale_;
  call.window = window_;
  attend_batch(call, first, count, q, outputs[0], parallel);
}

}  // namespace moe_mobile
