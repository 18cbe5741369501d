// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>

#include "metrics/process_memory.h"
#include "metrics/token_metrics.h"

namespace moe_mobile {

// Found by nlohmann::json: `nlohmann::json j = metrics;`. Members keep their C++ names; RunMetrics
// adds hit_rate.
void to_json(nlohmann::json& json, const TokenMetrics& metrics);
void to_json(nlohmann::json& json, const RunMetrics& metrics);
void to_json(nlohmann::json& json, const ProcessMemory& memory);

}  // namespace moe_mobile
