// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>

#include "base/error.h"

namespace moe_mobile {

// Parses JSON that may be hostile: refuses duplicate keys, deep nesting, absurd numbers of values,
// byte order marks and invalid UTF-8. kBundleInvalid, naming `file` and the byte.
nlohmann::json parse_strict_json(const std::string& text, const std::string& file);

// A value inside a parsed file. It knows its place, so that every error names it:
// layers[3].dense.path.
class JsonField {
 public:
  JsonField(const nlohmann::json& value, std::string place, const std::string& file)
      : value_(&value), place_(std::move(place)), file_(&file) {}

  // Throws Error(code, file, "<place> <cause>").
  [[noreturn]] void fail(const std::string& cause,
                         ErrorCode code = ErrorCode::kBundleInvalid) const;

  // An object with exactly these members; those in `optional` may be absent.
  void expect_members(std::initializer_list<const char*> required,
                      std::initializer_list<const char*> optional = {}) const;
  bool has(const char* member) const { return value_->contains(member); }
  JsonField operator[](const char* member) const;

  // Length of an array.
  size_t array_size() const;
  JsonField at(size_t index) const;

  bool is_null() const { return value_->is_null(); }
  void expect_object() const;
  // A JSON integer (no fraction, no exponent, no sign) within the bounds.
  uint64_t integer(uint64_t low, uint64_t high) const;
  uint32_t integer32(uint32_t low, uint32_t high) const {
    return static_cast<uint32_t>(integer(low, high));
  }
  // A number that a float can hold.
  double number() const;
  bool boolean() const;
  // 1 to `max_bytes` bytes without control characters.
  std::string text(size_t max_bytes) const;
  // A string that is one of these.
  std::string one_of(std::initializer_list<const char*> choices,
                     ErrorCode code = ErrorCode::kBundleInvalid) const;

 private:
  const nlohmann::json* value_;
  std::string place_;
  const std::string* file_;
};

}  // namespace moe_mobile
