// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>

namespace moe_mobile {

// A decimal number without sign ("0.2", "12", "1e-05"), independent of the locale; nothing for any
// other text.
std::optional<double> parse_number(const std::string& text);

// The shortest decimal text that parse_number() turns back into `value`.
// REQUIRES: `value` is finite.
std::string number_text(double value);

}  // namespace moe_mobile
