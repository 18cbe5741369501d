// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "base/number.h"

#include <cmath>
#include <locale>
#include <sstream>

namespace moe_mobile {

std::optional<double> parse_number(const std::string& text) {
  // The streams of some libraries also accept "inf", hexadecimal digits or a sign.
  if (text.empty() || text.find_first_not_of("0123456789.eE-") != std::string::npos ||
      text[0] == '-')
    return std::nullopt;
  std::istringstream stream(text);
  stream.imbue(std::locale::classic());
  double value = 0;
  if (!(stream >> value) || stream.peek() != std::istringstream::traits_type::eof() ||
      !std::isfinite(value))
    return std::nullopt;
  return value;
}

std::string number_text(double value) {
  for (int digits = 1;; ++digits) {
    std::ostringstream stream;
    stream.imbue(std::locale::classic());
    stream.precision(digits);
    stream << value;
    if (digits == 17 || parse_number(stream.str()) == value) return stream.str();
  }
}

}  // namespace moe_mobile
