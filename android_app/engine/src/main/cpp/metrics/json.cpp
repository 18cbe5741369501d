// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "metrics/json.h"

namespace moe_mobile {

void to_json(nlohmann::json& json, const TokenMetrics& m) {
  json = {{"token", m.token},
          {"total_ns", m.total_ns},
          {"dense_ns", m.dense_ns},
          {"attention_ns", m.attention_ns},
          {"expert_ns", m.expert_ns},
          {"wait_ns", m.wait_ns},
          {"router_ns", m.router_ns},
          {"head_ns", m.head_ns},
          {"hits", m.hits},
          {"misses", m.misses},
          {"dropped", m.dropped},
          {"bytes_read", m.bytes_read},
          {"bytes_wasted", m.bytes_wasted},
          {"slots_changed_by_routing", m.slots_changed_by_routing}};
}

void to_json(nlohmann::json& json, const RunMetrics& m) {
  json = {{"tokens", m.tokens},
          {"total_ns", m.total_ns},
          {"dense_ns", m.dense_ns},
          {"attention_ns", m.attention_ns},
          {"expert_ns", m.expert_ns},
          {"wait_ns", m.wait_ns},
          {"router_ns", m.router_ns},
          {"head_ns", m.head_ns},
          {"hits", m.hits},
          {"misses", m.misses},
          {"dropped", m.dropped},
          {"hit_rate", m.hit_rate()},
          {"bytes_read", m.bytes_read},
          {"bytes_wasted", m.bytes_wasted},
          {"slots_changed_by_routing", m.slots_changed_by_routing},
          {"p50_ns", m.p50_ns},
          {"p95_ns", m.p95_ns},
          {"p99_ns", m.p99_ns}};
}

void to_json(nlohmann::json& json, const ProcessMemory& m) {
  json = {{"rss_anon", m.rss_anon}, {"rss_file", m.rss_file}, {"rss", m.rss},
          {"peak_rss", m.peak_rss}, {"swap", m.swap},         {"major_faults", m.major_faults}};
}

}  // namespace moe_mobile
