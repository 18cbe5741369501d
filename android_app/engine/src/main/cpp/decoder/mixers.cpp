// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "decoder/mixers.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <string>
#include <variant>

#include "base/error.h"
#include "decoder/attention_mixer.h"
#include "decoder/convolution_mixer.h"

namespace moe_mobile {
namespace {

void check_context(const Manifest& manifest, uint32_t context) {
  if (context == 0 || context > manifest.context_length) {
    throw Error(ErrorCode::kUsage, Setting{"context"},
                "must be 1 to " + std::to_string(manifest.context_length) +
                    " for this model, not " + std::to_string(context),
                "Give a context in that range");
  }
}

bool same_rope(const AttentionSpec& a, const AttentionSpec& b) {
  return a.head_dim == b.head_dim && a.amplitude == b.amplitude &&
         a.inverse_frequencies == b.inverse_frequencies;
}

// The layers whose rotation differs from that of all earlier layers.
std::vector<const AttentionSpec*> distinct_ropes(const Manifest& manifest) {
  std::vector<const AttentionSpec*> distinct;
  for (const LayerSpec& layer : manifest.layers) {
    const auto* spec = std::get_if<AttentionSpec>(&layer.mixer);
    bool known = spec == nullptr;
    for (const AttentionSpec* other : distinct) known = known || same_rope(*spec, *other);
    if (!known) distinct.push_back(spec);
  }
  return distinct;
}

}  // namespace

MixerFacts mixer_facts(const Manifest& manifest, uint32_t layer, uint32_t context) {
  const MixerSpec& mixer = manifest.layers[layer].mixer;
  if (const auto* spec = std::get_if<ConvolutionSpec>(&mixer))
    return ConvolutionMixer::facts_for(*spec);
  return AttentionMixer::facts_for(std::get<AttentionSpec>(mixer), context, manifest.max_batch);
}

MixerColumns widest_mixer(const Manifest& manifest) {
  const auto sum = [](const std::vector<uint32_t>& widths) {
    return std::accumulate(widths.begin(), widths.end(), uint64_t{0});
  };
  MixerColumns widest;
  for (uint32_t layer = 0; layer < manifest.num_layers; ++layer) {
    // The widths do not depend on the context.
    const MixerFacts facts = mixer_facts(manifest, layer, manifest.context_length);
    widest.inputs = std::max(widest.inputs, sum(facts.input_widths));
    widest.outputs = std::max(widest.outputs, sum(facts.output_widths));
  }
  return widest;
}

Mixers::Mixers(const Manifest& manifest, uint32_t context) {
  check_context(manifest, context);
  const std::vector<const AttentionSpec*> distinct = distinct_ropes(manifest);
  for (const AttentionSpec* spec : distinct)
    ropes_.push_back(
        std::make_shared<Rope>(spec->inverse_frequencies, spec->amplitude, spec->head_dim));
  for (uint32_t layer = 0; layer < manifest.num_layers; ++layer) {
    if (const auto* spec = std::get_if<ConvolutionSpec>(&manifest.layers[layer].mixer)) {
      layers_.push_back(std::make_unique<ConvolutionMixer>(*spec));
      continue;
    }
    const auto& spec = std::get<AttentionSpec>(manifest.layers[layer].mixer);
    size_t rope = 0;
    while (!same_rope(spec, *distinct[rope])) ++rope;
    layers_.push_back(std::make_unique<AttentionMixer>(manifest.path, layer, spec, context,
                                                       manifest.max_batch, ropes_[rope]));
  }
}

uint64_t Mixers::state_bytes(const Manifest& manifest, uint32_t context) {
  check_context(manifest, context);
  uint64_t total = 0;
  for (uint32_t layer = 0; layer < manifest.num_layers; ++layer) {
    const uint64_t bytes = mixer_facts(manifest, layer, context).state_bytes;
    if (bytes > std::numeric_limits<int64_t>::max() - total)
      throw Error(ErrorCode::kBudget, Setting{"context"},
                  "the KV cache would be larger than any memory", "Shorten the context");
    total += bytes;
  }
  return total;
}

uint64_t Mixers::rope_bytes(const Manifest& manifest, uint32_t context) {
  uint64_t total = 0;
  for (const AttentionSpec* spec : distinct_ropes(manifest))
    total += Rope::table_bytes(context, spec->inverse_frequencies.size());
  return total;
}

void Mixers::clear() {
  for (const auto& layer : layers_) layer->clear();
}

void Mixers::begin(uint32_t first, uint32_t count) {
  for (const auto& layer : layers_) layer->mark(first, count);
  for (const auto& rope : ropes_) rope->prepare(first, count);
}

void Mixers::rewind() {
  for (const auto& layer : layers_) layer->rewind();
}

}  // namespace moe_mobile
