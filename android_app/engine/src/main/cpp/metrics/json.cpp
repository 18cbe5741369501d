// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "metrics/json.h"

namespace moe_mobile {

void to_json(nlohmann::json& json, const TokenMetrics& m) {
  json = {{"token", m.token}};
  for (const auto& cost : kCosts) json[cost.name] = m.*cost.member;
}

void to_json(nlohmann::json& json, const RunMetrics& m) {
  json = {{"tokens", m.tokens},
          {"hit_rate", m.hit_rate()},
          {"p50_ns", m.p50_ns},
          {"p95_ns", m.p95_ns},
          {"p99_ns", m.p99_ns}};
  for (const auto& cost : kCosts) json[cost.name] = m.*cost.member;
}

void to_json(nlohmann::json& json, const ProcessMemory& m) {
  json = {{"rss_anon", m.rss_anon}, {"rss_file", m.rss_file}, {"rss", m.rss},
          {"peak_rss", m.peak_rss}, {"swap", m.swap},         {"major_faults", m.major_faults}};
}

}  // namespace moe_mobile
