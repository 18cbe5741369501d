// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "routing/softmax_mass.h"

#include <algorithm>
#include <cstring>
#include <limits>

namespace moe_mobile {
namespace {

constexpr uint32_t kLanes = 4;
// Vectors of GCC and Clang, on every processor.
using Floats = float __attribute__((vector_size(16)));
using Integers = int32_t __attribute__((vector_size(16)));

Floats all(float x) { return Floats{x, x, x, x}; }

Floats load(const float* from) {
  Floats to;
  std::memcpy(&to, from, sizeof to);
  return to;
}

// Keeps the values whose mask is -1; sets those whose mask is 0 to 0.
Floats masked(Floats values, Integers mask) {
  Integers bits;
  std::memcpy(&bits, &values, sizeof bits);
  bits &= mask;
  std::memcpy(&values, &bits, sizeof values);
  return values;
}

// e^x for x <= 0, as 2^whole x e^rest. For x below -80 it is e^-80, too small to change a sum.
Floats exponential(Floats x) {
  const Integers counts = x > all(-80);
  x = masked(x, counts) + masked(all(-80), ~counts);
  // Adding this rounds to a whole number, which then is in the lowest bits.
  const Floats shift = all(12582912.f);  // 1.5 x 2^23
  const Floats shifted = x * all(1.44269504f) + shift;
  const Floats rest = x - (shifted - shift) * all(0.693147181f);
  // Taylor's series; |rest| is at most ln(2) / 2.
  Floats power = all(1.f / 720);
  power = power * rest + all(1.f / 120);
  power = power * rest + all(1.f / 24);
  power = power * rest + all(1.f / 6);
  power = power * rest + all(0.5f);
  power = power * rest + all(1);
  power = power * rest + all(1);
  Integers bits, whole;
  std::memcpy(&bits, &power, sizeof bits);
  std::memcpy(&whole, &shifted, sizeof whole);
  bits += whole << 23;
  std::memcpy(&power, &bits, sizeof power);
  return power;
}

double sum(Floats x) { return (double{x[0]} + x[1]) + (double{x[2]} + x[3]); }

}  // namespace

SoftmaxMass::SoftmaxMass(uint32_t num_values)
    // In units of 2^-24: the difference to the largest value is wrong by 80 at most, the rest of it
    // by 160, the power by 10. Sums of 4 lanes are by num_values / 4 more, and a share is made of
    // two sums.
    : error_((500 + 0.51 * num_values) / (1 << 24)),
      values_(num_values + kLanes),
      mass_(num_values + kLanes) {}

void SoftmaxMass::set(const float* values, uint32_t n, float largest) {
  padded_ = (n + kLanes - 1) / kLanes * kLanes;
  std::copy(values, values + n, values_.begin());
  std::fill(values_.begin() + n, values_.begin() + padded_,
            -std::numeric_limits<float>::infinity());
  Floats total = {};
  for (uint32_t i = 0; i < padded_; i += kLanes) {
    const Floats mass = exponential(load(&values_[i]) - all(largest));
    std::memcpy(&mass_[i], &mass, sizeof mass);
    total += mass;
  }
  total_ = sum(total);
}

double SoftmaxMass::share_before(uint32_t index) const {
  const Floats here = all(values_[index]);
  const auto before = static_cast<int32_t>(index);
  const Integers end = {before, before, before, before};
  Integers place = {0, 1, 2, 3};
  Floats total = {};
  for (uint32_t i = 0; i < padded_; i += kLanes) {
    const Floats others = load(&values_[i]);
    const Integers first = (others > here) | ((others == here) & (place < end));
    total += masked(load(&mass_[i]), first);
    place += kLanes;
  }
  return sum(total) / total_;
}

}  // namespace moe_mobile
