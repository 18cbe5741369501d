// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "engine/engine_json.h"

#include "engine/settings_json.h"
#include "metrics/json.h"

namespace moe_mobile {

void to_json(nlohmann::json& json, const EngineInfo& info) {
  const ModelInfo& model = info.model;
  auto precisions = nlohmann::json::array();
  for (const ExpertPrecision& precision : model.expert_precisions)
    precisions.push_back(precision.quantization);
  json = {{"bundle_hash", info.bundle_hash},
          {"model",
           {{"name", model.name},
            {"family", model.family},
            {"vocab_size", model.vocab_size},
            {"hidden_size", model.hidden_size},
            {"num_layers", model.num_layers},
            {"context_length", model.context_length},
            {"num_experts", model.num_experts},
            {"top_k", model.top_k},
            {"num_parameters", model.num_parameters},
            {"eos_token_ids", model.eos_token_ids},
            {"quantization",
             {{"experts", model.quantization.experts},
              {"dense", model.quantization.dense},
              {"head", model.quantization.head},
              {"embedding", model.quantization.embedding},
              {"group_size", model.quantization.group_size}}},
            {"expert_precisions", precisions}}},
          {"plan", info.plan},
          {"settings", info.settings},
          {"routing",
           {{"requested", info.routing.requested},
            {"resolved", info.routing.resolved},
            {"note", info.routing.note},
            {"lossy", info.routing.lossy}}},
          {"direct_io", info.direct_io},
          {"fallbacks", info.fallbacks},
          {"store_key", info.store_key},
          {"executorch", info.executorch},
          {"moe_mobile", info.moe_mobile}};
}

void to_json(nlohmann::json& json, const MemoryPlan& plan) {
  auto classes = nlohmann::json::array();
  for (const SlotClassPlan& c : plan.classes)
    classes.push_back({{"variant", c.variant},
                       {"quantization", c.name},
                       {"ranks", c.ranks},
                       {"slots", c.slots},
                       {"slots_per_layer", c.slots_per_layer},
                       {"slot_bytes", c.slot_bytes},
                       {"token_cycle_slots", c.token_cycle_slots}});
  json = {{"experts_budget_bytes", plan.experts_budget_bytes},
          {"slots", plan.slots},
          {"slots_per_layer", plan.slots_per_layer},
          {"slot_bytes", plan.slot_bytes},
          {"classes", classes},
          {"num_experts", plan.num_experts},
          {"dense_bytes", plan.dense_bytes},
          {"kv_bytes", plan.kv_bytes},
          {"arena_bytes", plan.arena_bytes},
          {"total_bytes", plan.total_bytes},
          {"token_cycle_slots", plan.token_cycle_slots},
          {"available_bytes", plan.available_bytes},
          {"text", describe(plan)}};
}

void to_json(nlohmann::json& json, const ResidencySnapshot& snapshot) {
  // A digit for each expert: much shorter than an array.
  json = {{"layers", snapshot.layers},
          {"states", nlohmann::json::array()},
          {"variants", nlohmann::json::array()},
          {"hits", snapshot.hits},
          {"misses", snapshot.misses}};
  for (size_t layer = 0; layer < snapshot.layers.size(); ++layer) {
    std::string states, variants;
    for (size_t expert = 0; expert < snapshot.num_experts; ++expert) {
      const size_t at = layer * snapshot.num_experts + expert;
      states += static_cast<char>('0' + static_cast<int>(snapshot.states[at]));
      variants += static_cast<char>('0' + snapshot.variants[at]);
    }
    json["states"].push_back(states);
    json["variants"].push_back(variants);
  }
}

void to_json(nlohmann::json& json, const Step& step) {
  json = step.metrics;
  json["phase"] = step.prefill ? "prefill" : "decode";
  json["count"] = step.tokens;
}

void to_json(nlohmann::json& json, const Stats& stats) {
  json = {{"totals", stats.totals}, {"tokens", stats.steps}};
}

void to_json(nlohmann::json& json, const BenchSample& sample) {
  json = {{"cache_fill", sample.cache_fill}, {"prompt_ns", sample.prompt_ns},
          {"gen_ns", sample.gen_ns},         {"itl_ns", sample.itl_ns},
          {"tokens", sample.steps},          {"memory", sample.memory}};
  if (sample.ttft_ns) json["ttft_ns"] = *sample.ttft_ns;
}

void to_json(nlohmann::json& json, const MissCosts& costs) {
  json = {{"packed_bytes", costs.packed_bytes},       {"program_bytes", costs.program_bytes},
          {"raw_read_ns", costs.raw_read_ns},         {"slot_miss_ns", costs.slot_miss_ns},
          {"slot_rest_ns", costs.slot_rest_ns},       {"forward_ns", costs.forward_ns},
          {"program_read_ns", costs.program_read_ns}, {"program_load_ns", costs.program_load_ns}};
}

void to_json(nlohmann::json& json, const ProgramTimes& times) {
  json = {{"samples_ns", times.samples_ns}, {"threads", times.threads}};
}

void to_json(nlohmann::json& json, const VerifiedBundle& verified) {
  json = {{"files", verified.files}, {"bytes", verified.bytes}, {"packed", nullptr}};
  if (verified.packed)
    json["packed"] = {{"directory", verified.packed->directory},
                      {"blobs", verified.packed->blobs},
                      {"bytes", verified.packed->bytes},
                      {"complete", verified.packed->complete}};
}

}  // namespace moe_mobile
