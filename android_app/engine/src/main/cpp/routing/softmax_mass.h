// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

namespace moe_mobile {

// Sums of softmax probabilities, many times faster than in double, with a bound on their error:
// enough for decisions that are not close. Keeps its scratch memory.
class SoftmaxMass {
 public:
  explicit SoftmaxMass(uint32_t num_values);

  // Takes n values, at most as many as the constructor was given. -infinity has no mass.
  // REQUIRES: no value is NaN, and `largest` is the largest of them.
  void set(const float* values, uint32_t n, float largest);
  // The sum of the probabilities of all values that sort before this one.
  double share_before(uint32_t index) const;
  // An upper bound on the difference between share_before() and the sum in double arithmetic.
  double error() const { return error_; }

 private:
  double error_;
  double total_ = 0;
  uint32_t padded_ = 0;
  std::vector<float> values_, mass_;  // padded to whole vectors, with values of no mass
};

}  // namespace moe_mobile
