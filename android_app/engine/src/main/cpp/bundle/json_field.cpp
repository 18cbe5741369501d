// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "bundle/json_field.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <set>
#include <vector>

namespace moe_mobile {
namespace {

using nlohmann::json;

constexpr int kMaxDepth = 16;
// More than a real manifest of 64 MiB needs. Bounds the memory that a hostile one takes.
constexpr size_t kMaxValues = 4u << 20;

constexpr char kExportAgain[] = "Export the bundle again";

}  // namespace

json parse_strict_json(const std::string& text, const std::string& file) {
  const auto refuse = [&file](const std::string& cause) {
    throw Error(ErrorCode::kBundleInvalid, file, cause, kExportAgain);
  };
  if (text.compare(0, 3, "\xef\xbb\xbf") == 0) refuse("starts with a byte order mark");
  // The parser treats a NUL byte as the end and would ignore the rest.
  if (text.find('\0') != std::string::npos) refuse("has a NUL byte");
  std::vector<std::set<std::string>> keys;  // of the objects that are open
  size_t values = 0;
  const auto check = [&](int depth, json::parse_event_t event, json& parsed) {
    if (depth > kMaxDepth) refuse("is nested deeper than " + std::to_string(kMaxDepth) + " levels");
    if (++values > kMaxValues) refuse("holds too many values");
    if (event == json::parse_event_t::object_start) keys.emplace_back();
    if (event == json::parse_event_t::object_end) keys.pop_back();
    if (event == json::parse_event_t::key &&
        !keys.back().insert(parsed.get_ref<const std::string&>()).second) {
      refuse("has the key " + in_quotes(parsed.get_ref<const std::string&>()) +
             " twice in one object");
    }
    return true;
  };
  try {
    return json::parse(text, check);
  } catch (const json::parse_error& error) {
    refuse("is not valid JSON at byte " + std::to_string(error.byte));
  } catch (const json::exception&) {
    refuse("holds a number beyond the range of floating point");
  }
  return {};
}

void JsonField::fail(const std::string& cause, ErrorCode code) const {
  throw Error(code, *file_, (place_.empty() ? "the document" : place_) + " " + cause,
              code == ErrorCode::kUnsupported ? "Use the moe-mobile version that wrote the bundle"
                                              : kExportAgain);
}

void JsonField::expect_object() const {
  if (!value_->is_object()) fail("is not an object");
}

void JsonField::expect_members(std::initializer_list<const char*> required,
                               std::initializer_list<const char*> optional) const {
  expect_object();
  for (const char* member : required) {
    if (!has(member)) fail("does not have the member \"" + std::string(member) + "\"");
  }
  const auto in = [](std::initializer_list<const char*> names, const std::string& key) {
    return std::any_of(names.begin(), names.end(), [&](const char* name) { return key == name; });
  };
  for (const auto& item : value_->items()) {
    if (!in(required, item.key()) && !in(optional, item.key())) {
      fail("has the unknown member " + in_quotes(item.key()));
    }
  }
}

JsonField JsonField::operator[](const char* member) const {
  return {value_->at(member), place_.empty() ? member : place_ + "." + member, *file_};
}

size_t JsonField::array_size() const {
  if (!value_->is_array()) fail("is not an array");
  return value_->size();
}

JsonField JsonField::at(size_t index) const {
  return {value_->at(index), place_ + "[" + std::to_string(index) + "]", *file_};
}

uint64_t JsonField::integer(uint64_t low, uint64_t high) const {
  if (!value_->is_number_unsigned()) fail("is not a non-negative integer");
  const auto value = value_->get<uint64_t>();
  if (value < low || value > high) {
    fail("is " + std::to_string(value) + ", not in " + std::to_string(low) + ".." +
         std::to_string(high));
  }
  return value;
}

double JsonField::number() const {
  if (!value_->is_number()) fail("is not a number");
  const auto value = value_->get<double>();
  if (!std::isfinite(value) || std::fabs(value) > FLT_MAX) fail("is beyond the range of a float");
  return value;
}

bool JsonField::boolean() const {
  if (!value_->is_boolean()) fail("is not true or false");
  return value_->get<bool>();
}

std::string JsonField::text(size_t max_bytes) const {
  if (!value_->is_string()) fail("is not a string");
  const auto& value = value_->get_ref<const std::string&>();
  if (value.empty()) fail("is empty");
  if (value.size() > max_bytes) {
    fail("is longer than " + std::to_string(max_bytes) + " bytes");
  }
  for (const char c : value) {
    if (static_cast<unsigned char>(c) < ' ' || c == 0x7f) fail("has a control character");
  }
  return value;
}

std::string JsonField::one_of(std::initializer_list<const char*> choices, ErrorCode code) const {
  const std::string value = text(64);
  std::string known;
  for (const char* choice : choices) {
    if (value == choice) return value;
    known += (known.empty() ? "" : ", ") + std::string(choice);
  }
  fail("is " + in_quotes(value) + ", known: " + known, code);
}

}  // namespace moe_mobile
