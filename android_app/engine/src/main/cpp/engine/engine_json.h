// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>

#include "engine/bench.h"
#include "engine/engine.h"
#include "engine/time_program.h"
#include "engine/verify.h"

namespace moe_mobile {

// The engine's answers as JSON, see docs/runner.md. Found by nlohmann::json: `nlohmann::json j =
// engine->info();`.
void to_json(nlohmann::json& json, const EngineInfo& info);
void to_json(nlohmann::json& json, const MemoryPlan& plan);
void to_json(nlohmann::json& json, const ResidencySnapshot& snapshot);
void to_json(nlohmann::json& json, const Step& step);
void to_json(nlohmann::json& json, const Stats& stats);
void to_json(nlohmann::json& json, const BenchSample& sample);
void to_json(nlohmann::json& json, const MissCosts& costs);
void to_json(nlohmann::json& json, const ProgramTimes& times);
void to_json(nlohmann::json& json, const VerifiedBundle& verified);

}  // namespace moe_mobile
