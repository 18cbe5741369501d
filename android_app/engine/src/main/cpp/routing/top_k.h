// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace moe_mobile {

// The order in which all routing sorts: larger first, ties to the lower index.
inline bool comes_before(const float* values, uint32_t a, uint32_t b) {
  return values[a] > values[b] || (values[a] == values[b] && a < b);
}

// Writes the indices of the first `k` of `n` values to `best`, in order.
// REQUIRES: no value is NaN.
void top_k(const float* values, uint32_t n, uint32_t k, uint32_t* best);

// How many of n values sort before this one.
uint32_t rank_of(const float* values, uint32_t n, uint32_t index);

// The smallest of n > 0 values.
float least_of(const float* values, uint32_t n);

// Index of the first value that is NaN or infinite; n if there is none.
uint32_t first_not_finite(const float* values, uint32_t n);

}  // namespace moe_mobile
