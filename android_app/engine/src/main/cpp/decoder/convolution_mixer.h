// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "bundle/manifest.h"
#include "decoder/mixer.h"

namespace moe_mobile {

// The state of a short causal convolution over positions, as in LFM2: a shift register. The dense
// programs hold the taps, so this only gives each position the columns of the positions before it.
//
// Inputs: u [n, width], which is convolved, and the gate c [n, width]. Outputs, each [n, width]: u
// of kernel - 1 positions before, ..., of 1 position before, of the position itself, and c. Before
// position 0, u is zero. State: kernel - 1 rows, and the same again for rewind().
class ConvolutionMixer : public Mixer {
 public:
  static MixerFacts facts_for(const ConvolutionSpec& spec);

  explicit ConvolutionMixer(const ConvolutionSpec& spec);

  void clear() override;
  void mark(uint32_t first, uint32_t count) override;
  void rewind() override;
  void run(uint32_t first, uint32_t count, float* const* inputs, float* const* outputs,
           const ParallelFor& parallel) override;

 private:
  uint32_t taps_before_;  // kernel - 1
  size_t width_;
  std::vector<float> last_;    // [kernel - 1, width]: u of the last positions, oldest first
  std::vector<float> marked_;  // the same at the last mark()
};

}  // namespace moe_mobile
