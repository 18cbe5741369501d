// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#include "runner/base64.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <iterator>

namespace moe_mobile {

namespace {

constexpr char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

}  // namespace

std::string base64(const std::vector<float>& values) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(values.data());
  const size_t size = values.size() * sizeof(float);
  std::string text;
  text.reserve((size + 2) / 3 * 4);
  for (size_t at = 0; at < size; at += 3) {
    const size_t count = std::min<size_t>(3, size - at);
    uint32_t group = 0;
    for (size_t i = 0; i < 3; ++i) group = group << 8 | (i < count ? bytes[at + i] : 0u);
    for (size_t i = 0; i < 4; ++i) text += i <= count ? kDigits[group >> (18 - 6 * i) & 63] : '=';
  }
  return text;
}

std::optional<std::vector<float>> from_base64(const std::string& text) {
  uint8_t value_of[256];
  std::fill(std::begin(value_of), std::end(value_of), uint8_t{64});
  for (uint8_t i = 0; i < 64; ++i) value_of[static_cast<uint8_t>(kDigits[i])] = i;
  const size_t padding = text.size() - std::min(text.find('='), text.size());
  if (text.size() % 4 != 0 || padding > 2) return std::nullopt;
  const size_t size = text.size() / 4 * 3 - padding;
  if (size % sizeof(float) != 0) return std::nullopt;
  std::vector<uint8_t> bytes;
  bytes.reserve(size + 2);
  for (size_t at = 0; at < text.size(); at += 4) {
    uint32_t group = 0;
    for (size_t i = at; i < at + 4; ++i) {
      const bool pads = i >= text.size() - padding;
      const uint8_t value = pads && text[i] == '=' ? 0 : value_of[static_cast<uint8_t>(text[i])];
      if (value == 64) return std::nullopt;
      group = group << 6 | value;
    }
    for (int shift = 16; shift >= 0; shift -= 8) bytes.push_back(uint8_t(group >> shift));
  }
  std::vector<float> values(size / sizeof(float));
  if (size > 0) std::memcpy(values.data(), bytes.data(), size);
  return values;
}

}  // namespace moe_mobile
