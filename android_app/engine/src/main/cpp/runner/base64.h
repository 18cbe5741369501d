// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <optional>
#include <string>
#include <vector>

namespace moe_mobile {

// The bytes of little-endian float32 values in base64 (RFC 4648, padded), for JSON.
std::string base64(const std::vector<float>& values);
// The values that base64() encoded; nothing if the text is not valid.
std::optional<std::vector<float>> from_base64(const std::string& text);

}  // namespace moe_mobile
