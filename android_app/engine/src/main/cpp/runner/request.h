// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/error.h"

namespace moe_mobile {

// Refuses members that the command does not have: a misspelt one would silently do nothing. kUsage.
void require_known(const nlohmann::json& request, const std::vector<std::string>& known);

// Checked members of a request; kUsage names the member.
std::string required_string(const nlohmann::json& request, const char* name);
std::vector<std::string> required_strings(const nlohmann::json& request, const char* name);
std::string optional_string(const nlohmann::json& request, const char* name,
                            const std::string& otherwise);
bool optional_bool(const nlohmann::json& request, const char* name, bool otherwise);
uint32_t optional_uint(const nlohmann::json& request, const char* name, uint32_t otherwise);
// Little-endian float32 values in base64; empty if the member is missing.
std::vector<float> optional_floats(const nlohmann::json& request, const char* name);
// "token_ids": an array of token ids.
std::vector<uint32_t> token_ids(const nlohmann::json& request);

// {"id", "event": "error", "error": {"code", "file", "setting", "cause", "remedy"}}
nlohmann::json error_event(const nlohmann::json& id, const Error& error);

}  // namespace moe_mobile
