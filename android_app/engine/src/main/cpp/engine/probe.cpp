// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#include "engine/probe.h"

#include <cmath>
#include <vector>

namespace moe_mobile {
namespace {

std::vector<float> input_of(uint32_t width) {
  std::vector<float> x(width);
  for (uint32_t i = 0; i < width; ++i)
    x[i] = std::sin(0.7f * static_cast<float>(i + 1)) * (1.0f + static_cast<float>(i % 5));
  return x;
}

}  // namespace

Sha256Digest probe(Method* method, const Signature& signature) {
  std::vector<std::vector<float>> buffers;
  buffers.reserve(signature.inputs.size() + signature.outputs.size());
  std::vector<MatrixIn> inputs;
  std::vector<MatrixOut> outputs;
  for (const uint32_t width : signature.inputs) {
    buffers.push_back(input_of(width));
    inputs.push_back({buffers.back().data(), 1, width});
  }
  for (const uint32_t width : signature.outputs) {
    buffers.emplace_back(width);
    outputs.push_back({buffers.back().data(), width});
  }
  method->run(inputs, outputs);
  Sha256 digest;
  for (const MatrixOut& output : outputs)
    digest.update(output.data, output.columns * sizeof(float));
  return digest.digest();
}

}  // namespace moe_mobile
