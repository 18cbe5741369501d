// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>

namespace moe_mobile {

// A decimal number without sign ("0.2", "12", "1e-05"), whatever the locale; none for anything
// else.
std::optional<double> parse_number(const std::string& text);

// The shortest decimal text that parse_number() turns back into `value`, which is finite.
std::string number_text(double value);

}  // namespace moe_mobile
