// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

namespace moe_mobile {

// The remedy for a wrong word, after a question if one of the known words is much like it.
std::string did_you_mean(const std::string& word, const std::vector<std::string>& known,
                         const std::string& remedy);

}  // namespace moe_mobile
