// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace moe_mobile {

constexpr uint64_t kMiB = 1 << 20;

}  // namespace moe_mobile
