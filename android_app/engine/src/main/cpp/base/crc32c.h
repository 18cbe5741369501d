// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

namespace moe_mobile {

// CRC-32C (Castagnoli, as in iSCSI) of the bytes. To continue over pieces, pass the previous result
// as `seed`.
uint32_t crc32c(const void* data, size_t length, uint32_t seed = 0);

namespace detail {
// Exposed so that tests can compare the paths. Both compute crc32c().
using Crc32c = uint32_t (*)(const void* data, size_t length, uint32_t seed);
uint32_t crc32c_portable(const void* data, size_t length, uint32_t seed);
// The version with the CPU's CRC instructions; nullptr if it has none.
Crc32c crc32c_hardware();
}  // namespace detail

}  // namespace moe_mobile
