// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

namespace moe_mobile {

// Sums of softmax probabilities, many times faster than in double, and a bound of how wrong they
// are: for decisions that are plain. Keeps its scratch memory.
class SoftmaxMass {
 public:
  explicit SoftmaxMass(uint32_t num_values);

  // Of n values, at most as many as it was made for; none is NaN, -infinity has no mass, and
  // `largest` is the largest of them.
  void set(const float* values, uint32_t n, float largest);
  // The sum of the probabilities of those that come before this value.
  double share_before(uint32_t index) const;
  // More than share_before() and the sum that double arithmetic gives can differ.
  double error() const { return error_; }

 private:
  double error_;
  double total_ = 0;
  uint32_t padded_ = 0;
  std::vector<float> values_, mass_;  // padded to whole vectors, with values of no mass
};

}  // namespace moe_mobile
