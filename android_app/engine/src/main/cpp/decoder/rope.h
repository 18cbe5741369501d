// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

namespace moe_mobile {

// Rotary position embedding of the pairs (i, i + r/2) of the first r elements of a head, from the
// bundle's frequencies: scaling variants were decided at export. Angles, sines and cosines are
// computed in double.
class Rope {
 public:
  // r = 2 x inverse_frequencies.size(), at most head_dim; an empty list rotates nothing.
  Rope(std::vector<double> inverse_frequencies, double amplitude, uint32_t head_dim);

  // Computes the rotations of positions first .. first + count - 1. Done once, they serve all
  // layers.
  void prepare(uint32_t first, uint32_t count);
  // Rotates `num_heads` heads of head_dim floats in place, for position first + row.
  void apply(float* heads, uint32_t num_heads, uint32_t row) const;

 private:
  std::vector<double> inverse_frequencies_;
  double amplitude_;
  uint32_t head_dim_;
  uint32_t first_ = 0;
  uint32_t count_ = 0;
  std::vector<float> cosines_;  // [count, r/2]
  std::vector<float> sines_;
};

}  // namespace moe_mobile
