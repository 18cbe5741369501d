// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <string>
#include <vector>

namespace moe_mobile {

// The bytes of little-endian float32 values in base64 (RFC 4648, padded), for JSON.
std::string base64(const std::vector<float>& values);

}  // namespace moe_mobile
