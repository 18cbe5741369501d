// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#include "engine/probe.h"

#include <algorithm>
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

std::vector<float> probe(Method* method, const Signature& signature) {
  std::vector<std::vector<float>> rows;
  rows.reserve(signature.inputs.size());
  std::vector<MatrixIn> inputs;
  for (const uint32_t width : signature.inputs) {
    rows.push_back(input_of(width));
    inputs.push_back({rows.back().data(), 1, width});
  }
  size_t columns = 0;
  for (const uint32_t width : signature.outputs) columns += width;
  std::vector<float> given(columns);
  std::vector<MatrixOut> outputs;
  float* next = given.data();
  for (const uint32_t width : signature.outputs) {
    outputs.push_back({next, width});
    next += width;
  }
  method->run(inputs, outputs);
  return given;
}

Sha256Digest digest_of(const std::vector<float>& probe) {
  return sha256(probe.data(), probe.size() * sizeof(float));
}

bool same_weights(const std::vector<float>& a, const std::vector<float>& b) {
  constexpr float kTolerance = 0.01f;  // of the largest value: a rounded activation may differ
  float largest = 0, difference = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (!std::isfinite(a[i]) || !std::isfinite(b[i])) return false;
    largest = std::max({largest, std::fabs(a[i]), std::fabs(b[i])});
    difference = std::max(difference, std::fabs(a[i] - b[i]));
  }
  return difference <= kTolerance * largest;
}

}  // namespace moe_mobile
