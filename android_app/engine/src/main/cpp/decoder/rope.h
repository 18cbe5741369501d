// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace moe_mobile {

// Rotary position embedding of the pairs (i, i + r/2) of the first r elements of a head, with the
// bundle's frequencies, which already include any scaling. Angles, sines and cosines are computed
// in double.
class Rope {
 public:
  // r = 2 x inverse_frequencies.size(), at most head_dim; an empty list rotates nothing.
  Rope(std::vector<double> inverse_frequencies, double amplitude, uint32_t head_dim);

  // Computes the rotations of positions first .. first + count - 1. They serve all layers, so a
  // step of the model (a prompt, or a token) does this once.
  void prepare(uint32_t first, uint32_t count);
  // Rotates `num_heads` heads of head_dim floats in place. Throws kUsage if `position` was not
  // prepared.
  void apply(float* heads, uint32_t num_heads, uint32_t position) const;

  // Bytes that prepare() takes for `count` positions and `pairs` frequencies.
  static uint64_t table_bytes(uint64_t count, size_t pairs) {
    return 2 * sizeof(float) * count * pairs;
  }

 private:
  std::vector<double> inverse_frequencies_;
  double amplitude_;
  uint32_t head_dim_;
  uint32_t first_ = 0;
  uint32_t count_ = 0;
  std::vector<float> cosines_;  // [count, r/2]
  std::vector<float> sines_;    // the same
};

}  // namespace moe_mobile
