// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "bundle/bundle.h"
#include "engine/engine.h"
#include "engine/expert_stream.h"

namespace moe_mobile {

// Engine::measure_misses(). The things to compare are measured in turns, in one run. No expert is
// in memory afterwards.
// REQUIRES: the places of `stream` are slots.
MissCosts measure_misses(const Bundle& bundle, ExpertStream* stream, uint32_t count, uint32_t seed,
                         const std::function<void()>& before_each);

}  // namespace moe_mobile
