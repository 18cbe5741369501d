// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>

#include "decoder/sampler.h"
#include "plan/settings.h"

namespace moe_mobile {

// The one place that parses settings: from a host's JSON object, whose members may be missing or
// null. kUsage for an unknown member, a wrong type or a bad value.
EngineSettings parse_settings(const nlohmann::json& json);

// {temperature, top_k, top_p, seed}, all optional. kUsage as above.
SamplingSettings parse_sampling(const nlohmann::json& json);

// Found by nlohmann::json: `nlohmann::json j = settings;`. parse_settings() reads it back.
void to_json(nlohmann::json& json, const EngineSettings& settings);

}  // namespace moe_mobile
