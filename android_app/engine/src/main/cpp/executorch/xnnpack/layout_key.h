// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <string>

namespace moe_mobile {

// PackedWeights::layout_key(). XNNPACK chooses micro-kernels, and so the layout, by the CPU's
// features and the ExecuTorch version; the page size is part of the file's layout.
std::string xnnpack_layout_key();

// The CPU's feature words that go into the key, from a text like /proc/cpuinfo: sorted, unique,
// joined by spaces.
std::string cpu_features(const std::string& cpuinfo);

}  // namespace moe_mobile
