// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <cstdint>
#include <functional>

namespace moe_mobile {

// Called between steps of long work: stage ("verify", "verify packed
// store", "wait", "prepare dense", "prepare", "load dense", "load", "prefill"), steps done, steps
// in all. The first call of a stage has what was done before. If it throws, the work stops;
// finished steps stay.
using Progress = std::function<void(const char* stage, uint64_t done, uint64_t total)>;

inline void ignore_progress(const char*, uint64_t, uint64_t) {}

}  // namespace moe_mobile
