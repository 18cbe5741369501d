// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

namespace moe_mobile {

// IEEE 754 binary16, round to nearest even; overflow becomes infinity, NaN stays NaN.
uint16_t float_to_half(float value);
float half_to_float(uint16_t half);

// Converts `count` values, with the CPU's conversion instructions if it has them. Same results.
// False if one of them is now infinite or NaN: it was, or is beyond 65504.
bool floats_to_halves(const float* source, uint16_t* destination, size_t count);

}  // namespace moe_mobile
