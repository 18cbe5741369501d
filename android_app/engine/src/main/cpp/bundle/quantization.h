// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>

namespace moe_mobile {

// The names of how a program's weights are stored.
constexpr std::initializer_list<const char*> kQuantizations = {"fp32", "8da8w", "8da4w"};

// One precision of the experts.
struct ExpertPrecision {
  std::string quantization;  // fp32, 8da8w or 8da4w
  uint32_t group_size = 0;   // for 8da4w; else 0

  friend bool operator==(const ExpertPrecision& a, const ExpertPrecision& b) {
    return a.quantization == b.quantization && a.group_size == b.group_size;
  }
  friend bool operator!=(const ExpertPrecision& a, const ExpertPrecision& b) { return !(a == b); }
};

struct Quantization {
  std::string experts;    // fp32, 8da8w or 8da4w
  std::string dense;      // the same
  std::string head;       // the same
  std::string embedding;  // fp32 or int8
  uint32_t group_size = 0;
};

}  // namespace moe_mobile
