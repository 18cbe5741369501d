// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "routing/router_scores.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "base/error.h"
#include "routing/top_k.h"

namespace moe_mobile {
namespace {

[[noreturn]] void refuse(const char* setting, const std::string& cause, const char* remedy) {
  throw Error(ErrorCode::kUsage, Setting{setting}, cause, remedy);
}

// In double, so that the float is the same on every platform.
float sigmoid(float x) {
  return static_cast<float>(1.0 / (1.0 + std::exp(-static_cast<double>(x))));
}

void weigh_by_softmax(const float* logits, uint32_t n, Selection* out) {
  const float largest = *std::max_element(logits, logits + n);
  float sum = 0;
  for (uint32_t e = 0; e < n; ++e) sum += std::exp(logits[e] - largest);
  out->weights.clear();
  for (const uint32_t expert : out->experts)
    out->weights.push_back(std::exp(logits[expert] - largest) / sum);
}

void renormalize_weights(float epsilon, Selection* out) {
  float selected = 0;
  for (const float weight : out->weights) selected += weight;
  selected += epsilon;
  if (selected == 0) return;  // all underflowed, and stay zeros
  for (float& weight : out->weights) weight /= selected;
}

}  // namespace

Scoring parse_scoring(const std::string& name) {
  if (name == "softmax") return Scoring::kSoftmax;
  if (name == "sigmoid") return Scoring::kSigmoid;
  if (name == "relu") return Scoring::kRelu;
  refuse("score", in_quotes(name) + " is unknown", "Choose softmax, sigmoid or relu.");
}

void check_router(const RouterSpec& spec, uint32_t num_layers) {
  if (spec.top_k == 0 || spec.top_k > spec.num_experts)
    refuse("top_k",
           "the router cannot select " + std::to_string(spec.top_k) + " of " +
               std::to_string(spec.num_experts) + " experts",
           "Give 1 to the number of experts.");
  if (spec.groups == 0 || spec.num_experts % spec.groups != 0)
    refuse("groups",
           std::to_string(spec.num_experts) + " experts do not form " +
               std::to_string(spec.groups) + " equal groups",
           "Give a divisor of the number of experts.");
  if (spec.top_groups == 0 || spec.top_groups > spec.groups ||
      uint64_t{spec.num_experts / spec.groups} * spec.top_groups < spec.top_k)
    refuse("top_groups",
           std::to_string(spec.top_groups) + " of " + std::to_string(spec.groups) +
               " groups do not hold " + std::to_string(spec.top_k) + " experts to select",
           "Give a larger number, at most the number of groups.");
  if (!std::isfinite(spec.scale) || spec.scale <= 0)
    refuse("scale", "weights cannot be scaled by " + std::to_string(spec.scale),
           "Give a finite number above 0.");
  if (!std::isfinite(spec.epsilon) || spec.epsilon < 0)
    refuse("epsilon", "cannot add " + std::to_string(spec.epsilon) + " to the sum of the weights",
           "Give a finite number of 0 or more.");
  if (spec.bias.empty()) return;
  if (spec.scoring != Scoring::kSigmoid)
    refuse("bias", "only sigmoid routers have a selection bias", "Leave it out.");
  if (spec.bias.size() != size_t{num_layers} * spec.num_experts)
    refuse("bias", "it has " + std::to_string(spec.bias.size()) + " numbers",
           "Give one per layer and expert.");
  for (const float bias : spec.bias)
    if (!std::isfinite(bias)) refuse("bias", "it has a NaN or infinity", "Give finite numbers.");
}

RouterScores::RouterScores(const RouterSpec& spec) : spec_(spec), best_(spec.top_k) {
  if (spec.scoring != Scoring::kSoftmax || spec.top_groups < spec.groups)
    z_.resize(spec.num_experts);
  if (spec.scoring == Scoring::kSigmoid) scores_.resize(spec.num_experts);
  group_scores_.resize(spec.groups);
  group_order_.resize(spec.groups);
}

Ranking RouterScores::rank(uint32_t layer, const float* logits) {
  const uint32_t n = spec_.num_experts;
  Ranking ranking;
  ranking.layer = layer;
  ranking.num_experts = n;
  ranking.top_k = spec_.top_k;
  const bool in_groups = spec_.top_groups < spec_.groups;
  ranking.limited = in_groups || spec_.scoring == Scoring::kRelu;
  if (spec_.scoring == Scoring::kSigmoid) {
    const float* bias = spec_.bias.empty() ? nullptr : spec_.bias.data() + size_t{layer} * n;
    for (uint32_t e = 0; e < n; ++e) {
      scores_[e] = sigmoid(logits[e]);
      z_[e] = bias != nullptr ? scores_[e] + bias[e] : scores_[e];
    }
    ranking.scores = scores_.data();
  } else if (ranking.limited) {
    std::copy(logits, logits + n, z_.begin());
  }
  if (in_groups) limit_to_groups();
  if (spec_.scoring == Scoring::kRelu) {
    uint32_t positive = 0;
    for (float& z : z_) {
      positive += z > 0 ? 1 : 0;
      if (!(z > 0)) z = -std::numeric_limits<float>::infinity();
    }
    ranking.top_k = std::min(ranking.top_k, positive);
    ranking.scores = logits;  // of the eligible experts
  }
  ranking.z = z_.empty() ? logits : z_.data();
  top_k(ranking.z, n, spec_.top_k, best_.data());
  ranking.best = best_.data();
  return ranking;
}

void RouterScores::limit_to_groups() {
  const uint32_t size = spec_.num_experts / spec_.groups;
  for (uint32_t group = 0; group < spec_.groups; ++group) {
    float first = -std::numeric_limits<float>::infinity(), second = first;
    for (uint32_t e = group * size; e < (group + 1) * size; ++e) {
      second = std::max(second, std::min(first, z_[e]));
      first = std::max(first, z_[e]);
    }
    const bool two = spec_.scoring == Scoring::kSigmoid && size > 1;
    group_scores_[group] = two ? first + second : first;
  }
  top_k(group_scores_.data(), spec_.groups, spec_.groups, group_order_.data());
  for (uint32_t rank = spec_.top_groups; rank < spec_.groups; ++rank) {
    const auto begin = z_.begin() + static_cast<ptrdiff_t>(group_order_[rank]) * size;
    std::fill(begin, begin + size, -std::numeric_limits<float>::infinity());
  }
}

void RouterScores::weigh(const Ranking& ranking, const float* logits, Selection* out) const {
  if (ranking.scores != nullptr) {
    out->weights.clear();
    for (const uint32_t expert : out->experts) out->weights.push_back(ranking.scores[expert]);
  } else {
    weigh_by_softmax(logits, spec_.num_experts, out);
  }
  if (spec_.renormalize) renormalize_weights(spec_.epsilon, out);
  if (spec_.scale != 1)
    for (float& weight : out->weights) weight *= spec_.scale;
}

}  // namespace moe_mobile
