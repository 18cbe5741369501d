// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "decoder/attention_mixer.h"

#include <string>

#include "base/error.h"

namespace moe_mobile {
namespace {

KvShape shape_of(const Manifest& manifest, uint32_t context) {
  if (context == 0 || context > manifest.context_length) {
    throw Error(ErrorCode::kUsage, Setting{"context"},
                "must be 1 to " + std::to_string(manifest.context_length) +
                    " for this model, not " + std::to_string(context),
                "Give a context in that range");
  }
  KvShape shape;
  shape.num_layers = manifest.num_layers;
  shape.num_kv_heads = manifest.attention.num_kv_heads;
  shape.head_dim = manifest.attention.head_dim;
  shape.context = context;
  shape.float32 = manifest.attention.kv_float32;
  return shape;
}

}  // namespace

AttentionMixer::AttentionMixer(const Manifest& manifest, uint32_t context)
    : num_heads_(manifest.attention.num_heads),
      scale_(static_cast<float>(manifest.attention.scale)),
      rope_(manifest.attention.inverse_frequencies, manifest.attention.amplitude,
            manifest.attention.head_dim),
      cache_(shape_of(manifest, context)) {
  for (const LayerSpec& layer : manifest.layers) windows_.push_back(layer.window);
}

uint64_t AttentionMixer::state_bytes_for(const Manifest& manifest, uint32_t context) {
  return KvCache::bytes_for(shape_of(manifest, context));
}

void AttentionMixer::begin(uint32_t first, uint32_t count) {
  if (count > cache_.shape().context || first > cache_.shape().context - count) {
    throw Error(ErrorCode::kUsage, Setting{"context"},
                "of " + std::to_string(cache_.shape().context) + " positions is full",
                "Raise the context or shorten the prompt");
  }
  first_ = first;
  count_ = count;
  rope_.prepare(first, count);
}

void AttentionMixer::run(uint32_t layer, float* q, float* k, const float* v, float* out,
                         const ParallelFor& parallel) {
  const KvShape& shape = cache_.shape();
  for (uint32_t row = 0; row < count_; ++row) {
    rope_.apply(q + static_cast<size_t>(row) * num_heads_ * shape.head_dim, num_heads_, row);
    rope_.apply(k + static_cast<size_t>(row) * shape.num_kv_heads * shape.head_dim,
                shape.num_kv_heads, row);
  }
  cache_.append(layer, first_, count_, k, v);
  AttentionCall call;
  call.cache = &cache_;
  call.layer = layer;
  call.num_heads = num_heads_;
  call.scale = scale_;
  call.window = windows_.at(layer);
  attend_batch(call, first_, count_, q, out, parallel);
}

}  // namespace moe_mobile
