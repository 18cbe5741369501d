// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#include "engine/settings_json.h"

#include <limits>
#include <set>
#include <string>

#include "base/error.h"
#include "base/spelling.h"
#include "cache/read_lanes.h"

namespace moe_mobile {
namespace {

constexpr const char* kResidencyNames[] = {"slots", "programs", "resident"};
constexpr const char* kPoolNames[] = {"auto", "global", "layer"};
constexpr const char* kInitialCacheNames[] = {"auto", "warm", "cold", "prompt", "profile"};

[[noreturn]] void bad(const std::string& member, const std::string& cause,
                      const std::string& remedy = "Correct this setting.") {
  throw Error(ErrorCode::kUsage, Setting{member}, cause, remedy);
}

void require_known(const nlohmann::json& json, const std::set<std::string>& known) {
  if (!json.is_object()) bad("settings", "it must be a JSON object");
  for (const auto& item : json.items())
    if (known.count(item.key()) == 0)
      bad(item.key(), "unknown setting",
          did_you_mean(item.key(), {known.begin(), known.end()}, "Correct its name."));
}

// Copies json[name] to `value` if the member exists; it must have the type of `value`.
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

// One of the names of an enumeration, in its order.
template <typename Enum, size_t kCount>
void take(const nlohmann::json& json, const char* name, const char* const (&names)[kCount],
          Enum* value) {
  std::string text = names[static_cast<size_t>(*value)];
  take(json, name, &text);
  std::string possible;
  for (size_t i = 0; i < kCount; ++i) {
    if (text == names[i]) {
      *value = static_cast<Enum>(i);
      return;
    }
    possible += (i == 0 ? "" : ", ") + std::string(names[i]);
  }
  bad(name, in_quotes(text) + " is not one of " + possible,
      did_you_mean(text, {names, names + kCount}, "Give one of them."));
}

// Reads a text with `parse`.
template <typename Value>
void take(const nlohmann::json& json, const char* name, Value (*parse)(const std::string&),
          Value* value) {
  if (!json.contains(name) || json[name].is_null()) return;
  std::string text;
  take(json, name, &text);
  *value = parse(text);
}

// {"LAYER": [expert, ...], ...}
void take(const nlohmann::json& json, const char* name,
          std::map<uint32_t, std::vector<uint32_t>>* value) {
  if (!json.contains(name) || json[name].is_null()) return;
  if (!json[name].is_object()) bad(name, "it must be an object");
  for (const auto& [layer, experts] : json[name].items()) {
    const bool number = !layer.empty() && layer.size() <= 5 &&
                        layer.find_first_not_of("0123456789") == std::string::npos;
    if (!number) bad(name, "invalid layer number " + in_quotes(layer));
    if (!experts.is_array()) bad(name, "layer " + layer + " must be an array");
    std::vector<uint32_t>& kept = (*value)[static_cast<uint32_t>(std::stoul(layer))];
    for (const nlohmann::json& expert : experts) {
      if (!expert.is_number_unsigned() || expert.get<uint64_t>() > 0xffff)
        bad(name, "layer " + layer + " must hold numbers of experts");
      kept.push_back(expert.get<uint32_t>());
    }
  }
}

template <typename Unsigned>
void take(const nlohmann::json& json, const char* name, Unsigned* value, uint64_t least = 0,
          uint64_t most = std::numeric_limits<Unsigned>::max()) {
  if (!json.contains(name) || json[name].is_null()) return;
  const bool whole = json[name].is_number_unsigned();
  if (!whole || json[name].get<uint64_t>() < least || json[name].get<uint64_t>() > most)
    bad(name,
        "it must be a whole number from " + std::to_string(least) + " to " + std::to_string(most));
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
                       "scratch_dir", "allow_below_cycle", "overlap", "direct", "pool", "eviction",
                       "initial_cache", "cache_profile", "precision"});
  EngineSettings settings;
  take(json, "cache", parse_budget, &settings.cache);
  take(json, "residency", kResidencyNames, &settings.residency);
  take(json, "routing", parse_routing, &settings.routing);
  take(json, "precision", parse_precision, &settings.precision);
  take(json, "pool", kPoolNames, &settings.pool);
  take(json, "eviction", parse_eviction, &settings.eviction);
  take(json, "initial_cache", kInitialCacheNames, &settings.initial_cache);
  take(json, "cache_profile", &settings.cache_profile);
  take(json, "lanes", &settings.lanes, 1, ReadLanes::kMost);
  take(json, "threads", &settings.threads);
  take(json, "context", &settings.context);
  take(json, "packed_dir", &settings.packed_dir);
  take(json, "scratch_dir", &settings.scratch_dir);
  take(json, "allow_below_cycle", &settings.allow_below_cycle);
  take(json, "overlap", &settings.overlap);
  take(json, "direct", &settings.direct);
  check_settings(settings);
  return settings;
}

void to_json(nlohmann::json& json, const EngineSettings& settings) {
  json = {{"cache", to_text(settings.cache)},
          {"residency", kResidencyNames[static_cast<size_t>(settings.residency)]},
          {"routing", to_text(settings.routing)},
          {"precision", to_text(settings.precision)},
          {"pool", kPoolNames[static_cast<size_t>(settings.pool)]},
          {"eviction", to_text(settings.eviction)},
          {"initial_cache", kInitialCacheNames[static_cast<size_t>(settings.initial_cache)]},
          {"lanes", settings.lanes},
          {"threads", settings.threads},
          {"context", settings.context},
          {"packed_dir", settings.packed_dir},
          {"scratch_dir", settings.scratch_dir},
          {"allow_below_cycle", settings.allow_below_cycle},
          {"overlap", settings.overlap},
          {"direct", settings.direct}};
  for (const auto& [layer, experts] : settings.cache_profile)
    json["cache_profile"][std::to_string(layer)] = experts;
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
