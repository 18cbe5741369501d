// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#include "engine/settings.h"

#include <limits>
#include <set>
#include <string>

#include "base/error.h"
#include "cache/memory_plan.h"

namespace moe_mobile {
namespace {

constexpr const char* kResidencyNames[] = {"slots", "programs", "resident"};

[[noreturn]] void bad(const std::string& member, const std::string& cause) {
  throw Error(ErrorCode::kUsage, Setting{member}, cause, "Correct this setting.");
}

void require_known(const nlohmann::json& json, const std::set<std::string>& known) {
  if (!json.is_object()) bad("settings", "it must be a JSON object");
  for (const auto& item : json.items())
    if (known.count(item.key()) == 0) bad(item.key(), "this setting is unknown");
}

// Takes json[name] into `value` if it is there, insisting on its kind.
void take(const nlohmann::json& json, const char* name, std::string* value) {
  if (!json.contains(name) || json[name].is_null()) return;
  if (!json[name].is_string()) bad(name, "it must be a string");
  *value = json[name].get<std::string>();
}

void take(const nlohmann::json& json, const char* name, bool* value) {
  if (!json.contains(name) || json[name].is_null()) return;
  if (!json[name].is_boolean()) bad(name, "it must be true or false");
  *value = json[name].get<bool>();
}

template <typename Unsigned>
void take(const nlohmann::json& json, const char* name, Unsigned* value) {
  if (!json.contains(name) || json[name].is_null()) return;
  constexpr uint64_t kMost = std::numeric_limits<Unsigned>::max();
  if (!json[name].is_number_unsigned() || json[name].get<uint64_t>() > kMost)
    bad(name, "it must be a whole number from 0 to " + std::to_string(kMost));
  *value = json[name].get<Unsigned>();
}

void take(const nlohmann::json& json, const char* name, float* value) {
  if (!json.contains(name) || json[name].is_null()) return;
  if (!json[name].is_number()) bad(name, "it must be a number");
  *value = json[name].get<float>();
}

}  // namespace

EngineSettings parse_settings(const nlohmann::json& json) {
  require_known(json, {"cache", "residency", "routing", "lanes", "threads", "context", "packed_dir",
                       "scratch_dir", "allow_below_cycle", "overlap", "direct"});
  EngineSettings settings;
  std::string residency = "slots";
  take(json, "cache", &settings.cache);
  take(json, "residency", &residency);
  take(json, "routing", &settings.routing);
  take(json, "lanes", &settings.lanes);
  take(json, "threads", &settings.threads);
  take(json, "context", &settings.context);
  take(json, "packed_dir", &settings.packed_dir);
  take(json, "scratch_dir", &settings.scratch_dir);
  take(json, "allow_below_cycle", &settings.allow_below_cycle);
  take(json, "overlap", &settings.overlap);
  take(json, "direct", &settings.direct);
  parse_budget(settings.cache);
  if (residency == "programs") {
    settings.residency = Residency::kPrograms;
  } else if (residency == "resident") {
    settings.residency = Residency::kResident;
  } else if (residency != "slots") {
    bad("residency", "'" + residency + "' is not one of slots, programs, resident");
  }
  if (settings.routing != "exact")
    bad("routing", "'" + settings.routing + "' is not a routing method; this version has: exact");
  if (settings.lanes < 1 || settings.lanes > 16) bad("lanes", "it must be 1 to 16");
  return settings;
}

nlohmann::json to_json(const EngineSettings& settings) {
  return {{"cache", settings.cache},
          {"residency", kResidencyNames[static_cast<int>(settings.residency)]},
          {"routing", settings.routing},
          {"lanes", settings.lanes},
          {"threads", settings.threads},
          {"context", settings.context},
          {"packed_dir", settings.packed_dir},
          {"scratch_dir", settings.scratch_dir},
          {"allow_below_cycle", settings.allow_below_cycle},
          {"overlap", settings.overlap},
          {"direct", settings.direct}};
}

SamplingSettings parse_sampling(const nlohmann::json& json) {
  require_known(json, {"temperature", "top_k", "top_p", "seed"});
  SamplingSettings settings;
  take(json, "temperature", &settings.temperature);
  take(json, "top_k", &settings.top_k);
  take(json, "top_p", &settings.top_p);
  take(json, "seed", &settings.seed);
  return settings;
}

}  // namespace moe_mobile
