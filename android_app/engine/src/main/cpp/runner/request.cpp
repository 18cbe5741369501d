// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#include "runner/request.h"

#include <algorithm>
#include <limits>

#include "runner/base64.h"

namespace moe_mobile {

using nlohmann::json;

namespace {

constexpr char kSeeProtocol[] = "docs/runner.md lists the requests.";

const json* member(const json& request, const char* name) {
  if (!request.is_object())
    throw Error(ErrorCode::kUsage, "", "a request must be a JSON object", kSeeProtocol);
  const auto found = request.find(name);
  return found == request.end() || found->is_null() ? nullptr : &*found;
}

[[noreturn]] void bad(const std::string& name, const char* cause) {
  throw Error(ErrorCode::kUsage, Setting{name}, cause, kSeeProtocol);
}

}  // namespace

void require_known(const json& request, const std::vector<std::string>& known) {
  for (const auto& item : request.items()) {
    const std::string& name = item.key();
    if (name != "id" && name != "command" &&
        std::find(known.begin(), known.end(), name) == known.end())
      bad(name, "the command does not take this member");
  }
}

std::string required_string(const json& request, const char* name) {
  const json* value = member(request, name);
  if (value == nullptr) bad(name, "this member is missing");
  if (!value->is_string()) bad(name, "it must be a string");
  return value->get<std::string>();
}

std::vector<std::string> required_strings(const json& request, const char* name) {
  const json* value = member(request, name);
  if (value == nullptr || !value->is_array()) bad(name, "it must be an array of strings");
  std::vector<std::string> strings;
  for (const json& item : *value) {
    if (!item.is_string()) bad(name, "it must be an array of strings");
    strings.push_back(item.get<std::string>());
  }
  return strings;
}

std::string optional_string(const json& request, const char* name, const std::string& otherwise) {
  return member(request, name) == nullptr ? otherwise : required_string(request, name);
}

bool optional_bool(const json& request, const char* name, bool otherwise) {
  const json* value = member(request, name);
  if (value == nullptr) return otherwise;
  if (!value->is_boolean()) bad(name, "it must be true or false");
  return value->get<bool>();
}

uint32_t optional_uint(const json& request, const char* name, uint32_t otherwise) {
  const json* value = member(request, name);
  if (value == nullptr) return otherwise;
  if (!value->is_number_unsigned() || value->get<uint64_t>() > std::numeric_limits<uint32_t>::max())
    bad(name, "it must be a whole number from 0 to 2^32 - 1");
  return value->get<uint32_t>();
}

std::vector<float> optional_floats(const json& request, const char* name) {
  const json* value = member(request, name);
  if (value == nullptr) return {};
  const auto floats = value->is_string() ? from_base64(value->get<std::string>()) : std::nullopt;
  if (!floats) bad(name, "it must be float32 values in base64");
  return *floats;
}

std::vector<uint32_t> token_ids(const json& request) {
  const json* value = member(request, "token_ids");
  if (value == nullptr || !value->is_array()) bad("token_ids", "it must be an array of token ids");
  std::vector<uint32_t> ids;
  for (const json& id : *value) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() > std::numeric_limits<uint32_t>::max())
      bad("token_ids", "it must be an array of token ids");
    ids.push_back(id.get<uint32_t>());
  }
  return ids;
}

json error_event(const json& id, const Error& error) {
  return {{"id", id},
          {"event", "error"},
          {"error",
           {{"code", to_string(error.code())},
            {"file", error.file()},
            {"setting", error.setting()},
            {"cause", error.cause()},
            {"remedy", error.remedy()}}}};
}

}  // namespace moe_mobile
