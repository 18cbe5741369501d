// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "decoder/mixers.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "base/expect_error.h"

namespace moe_mobile {
namespace {

constexpr uint32_t kContext = 400;

AttentionSpec attention(uint32_t heads, uint32_t kv_heads, uint32_t head_dim, uint32_t window) {
  AttentionSpec spec;
  spec.num_heads = heads;
  spec.num_kv_heads = kv_heads;
  spec.head_dim = head_dim;
  spec.scale = 0.4;
  spec.inverse_frequencies = {1.0, 0.1};
  spec.amplitude = 0.9;
  spec.kv_float32 = true;
  spec.window = window;
  return spec;
}

Manifest manifest(std::vector<MixerSpec> layers, uint32_t max_batch) {
  Manifest m;
  m.num_layers = static_cast<uint32_t>(layers.size());
  m.context_length = kContext;
  m.max_batch = max_batch;
  for (MixerSpec& spec : layers) {
    m.layers.emplace_back();
    m.layers.back().mixer = std::move(spec);
  }
  return m;
}

// Random inputs of one layer for every position of the context.
class LayerCase {
 public:
  LayerCase(const MixerFacts& facts, unsigned seed) : facts_(facts) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    for (const uint32_t width : facts.input_widths) {
      inputs.emplace_back(size_t{kContext} * width);
      for (float& x : inputs.back()) x = normal(random);
    }
    for (const uint32_t width : facts.output_widths) outputs.emplace_back(size_t{kContext} * width);
  }

  // Runs one batch and keeps its outputs.
  void run(Mixer& mixer, uint32_t first, uint32_t count) {
    std::vector<std::vector<float>> scratch = inputs;  // a mixer may change them
    std::vector<float*> in, out;
    for (size_t i = 0; i < scratch.size(); ++i)
      in.push_back(&scratch[i][size_t{first} * facts_.input_widths[i]]);
    for (size_t i = 0; i < outputs.size(); ++i)
      out.push_back(&outputs[i][size_t{first} * facts_.output_widths[i]]);
    mixer.run(first, count, in.data(), out.data(), serial_for);
  }

  std::vector<std::vector<float>> inputs, outputs;

 private:
  MixerFacts facts_;
};

// A step of `count` positions of all layers, in batches of at most `most`.
void step(Mixers& mixers, std::vector<LayerCase>& layers, uint32_t first, uint32_t count,
          uint32_t most) {
  mixers.begin(first, count);
  for (uint32_t layer = 0; layer < layers.size(); ++layer)
    for (uint32_t done = 0; done < count; done += most)
      layers[layer].run(mixers[layer], first + done, std::min(most, count - done));
}

std::vector<LayerCase> cases(const Manifest& m) {
  std::vector<LayerCase> layers;
  for (uint32_t layer = 0; layer < m.num_layers; ++layer)
    layers.emplace_back(mixer_facts(m, layer, kContext), layer);
  return layers;
}

void rotate(const AttentionSpec& spec, uint32_t position, std::vector<double>& head) {
  const size_t pairs = spec.inverse_frequencies.size();
  for (size_t i = 0; i < pairs; ++i) {
    const double angle = position * spec.inverse_frequencies[i];
    const double a = head[i], b = head[pairs + i];
    head[i] = spec.amplitude * (a * std::cos(angle) - b * std::sin(angle));
    head[pairs + i] = spec.amplitude * (b * std::cos(angle) + a * std::sin(angle));
  }
}

// Rotation and windowed softmax attention of one query head by definition, in double.
std::vector<double> attend_by_definition(const AttentionSpec& spec, const LayerCase& layer,
                                         uint32_t position, uint32_t head) {
  const uint32_t dim = spec.head_dim, kv = head / (spec.num_heads / spec.num_kv_heads);
  const auto row = [&](size_t input, uint32_t at, uint32_t heads, uint32_t which) {
    const float* begin = &layer.inputs[input][(size_t{at} * heads + which) * dim];
    return std::vector<double>(begin, begin + dim);
  };
  std::vector<double> q = row(0, position, spec.num_heads, head), out(dim);
  rotate(spec, position, q);
  double total = 0;
  const uint32_t begin =
      spec.window == 0 || spec.window > position ? 0 : position + 1 - spec.window;
  for (uint32_t t = begin; t <= position; ++t) {
    std::vector<double> k = row(1, t, spec.num_kv_heads, kv);
    rotate(spec, t, k);
    double score = 0;
    for (uint32_t d = 0; d < dim; ++d) score += q[d] * k[d];
    const double weight = std::exp(spec.scale * score);
    const std::vector<double> v = row(2, t, spec.num_kv_heads, kv);
    for (uint32_t d = 0; d < dim; ++d) out[d] += weight * v[d];
    total += weight;
  }
  for (double& x : out) x /= total;
  return out;
}

// Layers of different heads, widths and windows in one model.
TEST(Mixers, EveryLayerHasItsOwnShape) {
  const std::vector<AttentionSpec> specs{attention(4, 2, 6, 0), attention(6, 1, 8, 5),
                                         attention(2, 2, 20, 70)};
  const Manifest m = manifest({specs.begin(), specs.end()}, 32);
  EXPECT_EQ(mixer_facts(m, 0, kContext).input_widths, (std::vector<uint32_t>{24, 12, 12}));
  EXPECT_EQ(mixer_facts(m, 1, kContext).input_widths, (std::vector<uint32_t>{48, 8, 8}));
  EXPECT_EQ(mixer_facts(m, 2, kContext).output_widths, (std::vector<uint32_t>{40}));
  // Keys and values of 400, 64 + 4 and 128 + 69 positions.
  EXPECT_EQ(mixer_facts(m, 0, kContext).state_bytes, 2u * 2 * 8 * 4 * 400);
  EXPECT_EQ(mixer_facts(m, 1, kContext).state_bytes, 2u * 8 * 4 * (64 + 4));
  EXPECT_EQ(mixer_facts(m, 2, kContext).state_bytes, 2u * 2 * 24 * 4 * (128 + 69));
  EXPECT_EQ(Mixers::state_bytes(m, kContext),
            2u * 2 * 8 * 4 * 400 + 2u * 8 * 4 * 68 + 2u * 2 * 24 * 4 * 197);

  Mixers mixers(m, kContext);
  std::vector<LayerCase> layers = cases(m);
  step(mixers, layers, 0, 150, 32);
  for (uint32_t p = 150; p < 180; ++p) step(mixers, layers, p, 1, 1);
  step(mixers, layers, 180, 220, 32);
  for (uint32_t layer = 0; layer < 3; ++layer)
    for (uint32_t p = 0; p < kContext; p += p < 200 ? 1 : 7)
      for (uint32_t head = 0; head < specs[layer].num_heads; ++head) {
        const auto expected = attend_by_definition(specs[layer], layers[layer], p, head);
        const uint32_t dim = specs[layer].head_dim;
        const float* out =
            &layers[layer].outputs[0][(size_t{p} * specs[layer].num_heads + head) * dim];
        for (uint32_t d = 0; d < dim; ++d)
          ASSERT_NEAR(out[d], expected[d], 1e-5) << "layer " << layer << " at " << p;
      }
}

bool same_bits(const std::vector<LayerCase>& a, const std::vector<LayerCase>& b) {
  for (size_t layer = 0; layer < a.size(); ++layer)
    for (size_t i = 0; i < a[layer].outputs.size(); ++i)
      if (std::memcmp(a[layer].outputs[i].data(), b[layer].outputs[i].data(),
                      4 * a[layer].outputs[i].size()) != 0)
        return false;
  return true;
}

// A window's cache that wraps around gives the same bits as one with a row per position.
TEST(Mixers, WrappedCachesEqualFullOnes) {
  std::mt19937 random(7);
  for (const uint32_t window : {1u, 5u, 63u, 64u, 65u, 100u}) {
    for (const uint32_t max_batch : {1u, 16u, 60u}) {
      const Manifest ring = manifest({attention(6, 2, 24, window)}, max_batch);
      const Manifest full = manifest({attention(6, 2, 24, window)}, 4096);
      ASSERT_LT(Mixers::state_bytes(ring, kContext), Mixers::state_bytes(full, kContext));
      Mixers wrapped(ring, kContext), whole(full, kContext);
      std::vector<LayerCase> a = cases(ring), b = a;
      step(whole, b, 0, kContext, kContext);
      for (uint32_t first = 0; first < kContext;) {
        const uint32_t count = std::min<uint32_t>(
            random() % 2 == 0 ? 1 : 1 + static_cast<uint32_t>(random() % 90), kContext - first);
        step(wrapped, a, first, count, max_batch);
        first += count;
      }
      ASSERT_TRUE(same_bits(a, b)) << "window " << window << " batch " << max_batch;
    }
  }
}

// A step that fails leaves no trace, no matter where it stops.
TEST(Mixers, ARewindForgetsTheStep) {
  const Manifest m =
      manifest({attention(2, 1, 8, 0), attention(2, 1, 8, 40), ConvolutionSpec{3, 10}}, 16);
  std::mt19937 random(9);
  Mixers undisturbed(m, kContext), disturbed(m, kContext);
  std::vector<LayerCase> a = cases(m), b = a;
  for (uint32_t first = 0; first < kContext;) {
    const auto left = kContext - first;
    const auto count = std::min<uint32_t>(1 + static_cast<uint32_t>(random() % 30), left);
    step(undisturbed, a, first, count, 16);
    // Other positions come, and only some layers see them.
    const auto failing = std::min<uint32_t>(1 + static_cast<uint32_t>(random() % 200), left);
    disturbed.begin(first, failing);
    std::vector<LayerCase> others = b;
    for (LayerCase& layer : others)
      for (auto& input : layer.inputs) std::fill(input.begin(), input.end(), 0.7f);
    for (uint32_t layer = 0; layer < 1 + random() % 3; ++layer)
      for (uint32_t done = 0; done < failing; done += 16)
        others[layer].run(disturbed[layer], first + done, std::min(16u, failing - done));
    disturbed.rewind();
    step(disturbed, b, first, count, 16);
    first += count;
  }
  EXPECT_TRUE(same_bits(a, b));
}

TEST(Mixers, ClearForgetsEverything) {
  const Manifest m =
      manifest({attention(2, 1, 8, 0), attention(2, 1, 8, 40), ConvolutionSpec{3, 10}}, 16);
  Mixers mixers(m, kContext);
  std::vector<LayerCase> layers = cases(m), again = layers;
  step(mixers, layers, 0, 300, 16);
  mixers.clear();
  step(mixers, again, 0, 300, 16);
  EXPECT_TRUE(same_bits(layers, again));
}

// The expected outputs, copied directly from the inputs.
TEST(Mixers, AConvolutionOutputsTheColumnsBefore) {
  for (const uint32_t kernel : {2u, 3u, 4u, 16u}) {
    const Manifest m = manifest({ConvolutionSpec{kernel, 5}}, 32);
    const MixerFacts facts = mixer_facts(m, 0, kContext);
    EXPECT_EQ(facts.input_widths, (std::vector<uint32_t>{5, 5}));
    EXPECT_EQ(facts.output_widths, std::vector<uint32_t>(kernel + 1, 5));
    // Rows of the last positions, and the same again for a rewind, for any context.
    EXPECT_EQ(facts.state_bytes, 2u * 4 * (kernel - 1) * 5);
    EXPECT_EQ(Mixers::state_bytes(m, 1), facts.state_bytes);
    EXPECT_EQ(Mixers::rope_bytes(m, kContext), 0u);
    Mixers mixers(m, kContext);
    std::mt19937 random(kernel);
    for (int conversation = 0; conversation < 2; ++conversation, mixers.clear()) {
      std::vector<LayerCase> layers = cases(m);
      for (uint32_t first = 0; first < kContext;) {
        const uint32_t count = std::min<uint32_t>(
            random() % 2 == 0 ? 1 : 1 + static_cast<uint32_t>(random() % 60), kContext - first);
        step(mixers, layers, first, count, 1 + static_cast<uint32_t>(random() % 20));
        first += count;
      }
      for (uint32_t p = 0; p < kContext; ++p)
        for (uint32_t column = 0; column < 5; ++column) {
          for (uint32_t i = 0; i < kernel; ++i) {
            const uint32_t before = kernel - 1 - i;
            const float u = before > p ? 0 : layers[0].inputs[0][(p - before) * 5 + column];
            ASSERT_EQ(layers[0].outputs[i][p * 5 + column], u);
          }
          ASSERT_EQ(layers[0].outputs[kernel][p * 5 + column], layers[0].inputs[1][p * 5 + column]);
        }
    }
  }
}

TEST(Mixers, WhatTheCacheCannotHoldNamesTheBundle) {
  AttentionSpec spec = attention(2, 1, 8, 0);
  spec.kv_float32 = false;
  Manifest m = manifest({spec}, 4);
  m.path = "bundle/bundle.json";
  Mixers mixers(m, kContext);
  std::vector<float> q(16), k(8, 1e6f), v(8), out(16);
  float* inputs[] = {q.data(), k.data(), v.data()};
  float* outputs[] = {out.data()};
  mixers.begin(0, 1);
  EXPECT_ERROR(mixers[0].run(0, 1, inputs, outputs, serial_for), ErrorCode::kRuntime,
               "bundle/bundle.json");
}

TEST(Mixers, LayersShareRotations) {
  std::vector<AttentionSpec> specs{attention(2, 1, 8, 0), attention(4, 2, 8, 3),
                                   attention(2, 1, 8, 0)};
  specs[2].inverse_frequencies = {0.5};
  // Two tables: of two frequencies, and of one.
  EXPECT_EQ(Mixers::rope_bytes(manifest({specs.begin(), specs.end()}, 16), 100),
            100u * (2 + 1) * 2 * 4);
}

TEST(Mixers, CheckTheirContext) {
  const Manifest m = manifest({attention(4, 2, 6, 0)}, 16);
  EXPECT_ERROR(Mixers(m, kContext + 1), ErrorCode::kUsage, "1 to 400");
  EXPECT_ERROR(Mixers(m, 0), ErrorCode::kUsage, "1 to 400");
  EXPECT_ERROR(Mixers::state_bytes(m, 0), ErrorCode::kUsage, "1 to 400");
  Mixers mixers(m, 10);
  mixers.begin(0, 10);
  EXPECT_ERROR(mixers.begin(10, 1), ErrorCode::kUsage, "full");
  EXPECT_ERROR(mixers.begin(0, 11), ErrorCode::kUsage, "full");
}

TEST(Mixers, AbsurdSizesAreErrors) {
  AttentionSpec spec = attention(4096, 4096, 4096, 0);
  Manifest m = manifest(std::vector<MixerSpec>(4096, spec), 16);
  m.context_length = 1u << 24;
  EXPECT_ERROR(Mixers::state_bytes(m, 1u << 24), ErrorCode::kBudget, "larger than any memory");
}

}  // namespace
}  // namespace moe_mobile
