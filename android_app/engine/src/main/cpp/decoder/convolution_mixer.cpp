// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "decoder/convolution_mixer.h"

#include <algorithm>

namespace moe_mobile {

MixerFacts ConvolutionMixer::facts_for(const ConvolutionSpec& spec) {
  MixerFacts facts;
  facts.input_widths = {spec.width, spec.width};
  facts.output_widths.assign(spec.kernel + 1, spec.width);
  facts.state_bytes = 2 * sizeof(float) * uint64_t{spec.kernel - 1} * spec.width;
  return facts;
}

ConvolutionMixer::ConvolutionMixer(const ConvolutionSpec& spec)
    : Mixer(facts_for(spec)),
      taps_before_(spec.kernel - 1),
      width_(spec.width),
      last_(taps_before_ * width_),
      marked_(last_.size()) {}

void ConvolutionMixer::clear() { std::fill(last_.begin(), last_.end(), 0.0f); }

void ConvolutionMixer::mark(uint32_t, uint32_t) {
  std::copy(last_.begin(), last_.end(), marked_.begin());
}

void ConvolutionMixer::rewind() { std::copy(marked_.begin(), marked_.end(), last_.begin()); }

void ConvolutionMixer::run(uint32_t, uint32_t count, float* const* inputs, float* const* outputs,
                           const ParallelFor&) {
  const float* u = inputs[0];
  // Output i is u, `before` positions later: first rows of last_, then of u.
  for (uint32_t before = taps_before_; before > 0; --before) {
    float* out = outputs[taps_before_ - before];
    const size_t old = std::min(before, count);
    out = std::copy_n(last_.data() + (taps_before_ - before) * width_, old * width_, out);
    std::copy_n(u, (count - old) * width_, out);
  }
  std::copy_n(u, count * width_, outputs[taps_before_]);
  std::copy_n(inputs[1], count * width_, outputs[taps_before_ + 1]);
  const size_t kept = taps_before_ - std::min(taps_before_, count);
  const size_t added = taps_before_ - kept;
  std::copy(last_.begin() + static_cast<ptrdiff_t>(added * width_), last_.end(), last_.begin());
  std::copy_n(u + (count - added) * width_, added * width_, last_.data() + kept * width_);
}

}  // namespace moe_mobile
