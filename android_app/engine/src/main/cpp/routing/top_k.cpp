// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "routing/top_k.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <vector>

namespace moe_mobile {
namespace {

constexpr uint32_t kLanes = 8;        // inner loops of a constant length become vector code
constexpr uint32_t kContenders = 64;  // up to so many values are sorted by counting

// Vectors of GCC and Clang, on every processor.
using Floats = float __attribute__((vector_size(16)));
using Counts = int32_t __attribute__((vector_size(16)));

uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

// The k first of n >= lanes >= k values, without a branch that depends on them; false if too many
// values are close. Taking the largest value of each lane gives at least k values, so no value
// below the smallest of them is among the first k.
template <uint32_t lanes>
bool top_few(const float* values, uint32_t n, uint32_t k, uint32_t* best) {
  float lane_best[lanes];
  std::copy(values, values + lanes, lane_best);
  uint32_t i = lanes;
  for (; i + lanes <= n; i += lanes)
    for (uint32_t lane = 0; lane < lanes; ++lane)
      lane_best[lane] = values[i + lane] > lane_best[lane] ? values[i + lane] : lane_best[lane];
  const float bound = least_of(lane_best, lanes);

  uint32_t indices[kContenders + kLanes];
  float contenders[kContenders + kLanes];
  uint32_t count = 0;
  const auto contend = [&](uint32_t index) {
    indices[count] = index;
    contenders[count] = values[index];
    count += static_cast<uint32_t>(values[index] >= bound);
  };
  for (i = 0; i + kLanes <= n; i += kLanes) {
    for (uint32_t lane = 0; lane < kLanes; ++lane) contend(i + lane);
    if (count > kContenders) return false;
  }
  for (; i < n; ++i) contend(i);
  if (count > kContenders) return false;
  std::fill(contenders + count, contenders + count + kLanes,
            -std::numeric_limits<float>::infinity());

  // The number of larger values is the rank of the first of equal values.
  uint8_t equals[kContenders] = {};
  for (i = 0; i < count; ++i) {
    const Floats value = {contenders[i], contenders[i], contenders[i], contenders[i]};
    Counts larger = {};
    for (uint32_t j = 0; j < count; j += 4) {
      Floats others;
      std::memcpy(&others, contenders + j, sizeof others);
      larger -= others > value;  // true is -1
    }
    uint32_t rank = larger[0] + larger[1] + larger[2] + larger[3];
    rank += equals[rank]++;
    if (rank < k) best[rank] = indices[i];
  }
  return true;
}

void top_many(const float* values, uint32_t n, uint32_t k, uint32_t* best) {
  // Integers that sort as (value, lower index first).
  thread_local std::vector<uint64_t> keys;
  keys.resize(n);
  for (uint32_t i = 0; i < n; ++i) {
    const uint32_t bits = bits_of(values[i] + 0.f);  // -0 becomes 0
    const uint32_t ordered = bits ^ ((bits >> 31) != 0 ? 0xffffffffu : 0x80000000u);
    keys[i] = (uint64_t{ordered} << 32) | (0xffffffffu - i);
  }
  const auto end = keys.begin() + k;
  if (k < n) std::nth_element(keys.begin(), end, keys.end(), std::greater<>());
  std::sort(keys.begin(), end, std::greater<>());
  for (uint32_t rank = 0; rank < k; ++rank)
    best[rank] = 0xffffffffu - static_cast<uint32_t>(keys[rank]);
}

}  // namespace

void top_k(const float* values, uint32_t n, uint32_t k, uint32_t* best) {
  const bool done = k <= 4 && n >= 4     ? top_few<4>(values, n, k, best)
                    : k <= 8 && n >= 8   ? top_few<8>(values, n, k, best)
                    : k <= 16 && n >= 16 ? top_few<16>(values, n, k, best)
                                         : false;
  if (!done) top_many(values, n, k, best);
}

uint32_t rank_of(const float* values, uint32_t n, uint32_t index) {
  const float value = values[index];
  const Floats here = {value, value, value, value};
  Counts before = {};
  // Equal values earlier in the array come first.
  uint32_t i = 0;
  for (; i + 4 <= index; i += 4) {
    Floats others;
    std::memcpy(&others, values + i, sizeof others);
    before -= others >= here;  // true is -1
  }
  uint32_t rank = 0;
  for (; i < index; ++i) rank += static_cast<uint32_t>(values[i] >= value);
  for (; i + 4 <= n; i += 4) {
    Floats others;
    std::memcpy(&others, values + i, sizeof others);
    before -= others > here;
  }
  for (; i < n; ++i) rank += static_cast<uint32_t>(values[i] > value);
  return rank + before[0] + before[1] + before[2] + before[3];
}

float least_of(const float* values, uint32_t n) {
  float least[kLanes];
  std::fill(least, least + kLanes, values[0]);
  uint32_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (uint32_t lane = 0; lane < kLanes; ++lane)
      least[lane] = values[i + lane] < least[lane] ? values[i + lane] : least[lane];
  for (; i < n; ++i) least[0] = std::min(least[0], values[i]);
  return *std::min_element(least, least + kLanes);
}

uint32_t first_not_finite(const float* values, uint32_t n) {
  // Finite values times zero are zero, all others NaN.
  float zero[kLanes] = {};
  uint32_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (uint32_t lane = 0; lane < kLanes; ++lane) zero[lane] += values[i + lane] * 0.f;
  for (; i < n; ++i) zero[0] += values[i] * 0.f;
  float sum = 0;
  for (const float lane : zero) sum += lane;
  if (sum == 0) return n;
  return static_cast<uint32_t>(
      std::find_if(values, values + n, [](float value) { return !std::isfinite(value); }) - values);
}

}  // namespace moe_mobile
