// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "decoder/rope.h"

#include <cmath>
#include <string>
#include <utility>

#include "base/error.h"

namespace moe_mobile {

Rope::Rope(std::vector<double> inverse_frequencies, double amplitude, uint32_t head_dim)
    : inverse_frequencies_(std::move(inverse_frequencies)),
      amplitude_(amplitude),
      head_dim_(head_dim) {
  if (2 * inverse_frequencies_.size() > head_dim) {
    throw Error(ErrorCode::kUsage, "", "it rotates more elements than a head has");
  }
}

void Rope::prepare(uint32_t first, uint32_t count) {
  first_ = first;
  count_ = count;
  const size_t pairs = inverse_frequencies_.size();
  cosines_.resize(count * pairs);
  sines_.resize(count * pairs);
  for (uint32_t row = 0; row < count; ++row) {
    for (size_t i = 0; i < pairs; ++i) {
      const double angle = (static_cast<double>(first) + row) * inverse_frequencies_[i];
      cosines_[row * pairs + i] = static_cast<float>(std::cos(angle) * amplitude_);
      sines_[row * pairs + i] = static_cast<float>(std::sin(angle) * amplitude_);
    }
  }
}

void Rope::apply(float* heads, uint32_t num_heads, uint32_t position) const {
  const size_t pairs = inverse_frequencies_.size();
  if (pairs == 0) return;
  if (position < first_ || position - first_ >= count_)
    throw Error(ErrorCode::kUsage, "",
                "position " + std::to_string(position) + " was not prepared");
  const uint32_t row = position - first_;
  const float* cosines = &cosines_[row * pairs];
  const float* sines = &sines_[row * pairs];
  for (uint32_t head = 0; head < num_heads; ++head) {
    float* low = heads + static_cast<size_t>(head) * head_dim_;
    float* high = low + pairs;
    for (size_t i = 0; i < pairs; ++i) {
      const float a = low[i], b = high[i];
      low[i] = a * cosines[i] - b * sines[i];
      high[i] = b * cosines[i] + a * sines[i];
    }
  }
}

}  // namespace moe_mobile
