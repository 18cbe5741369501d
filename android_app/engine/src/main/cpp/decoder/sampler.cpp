// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "decoder/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "base/error.h"

namespace moe_mobile {
namespace {

// The n-th output of SplitMix64: a bijection of the counter, so draws can be repeated one by one.
uint64_t split_mix_64(uint64_t seed, uint64_t n) {
  uint64_t z = seed + (n + 1) * 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

// Beyond this the weight, below 1e-17 of the largest, counts as zero.
constexpr double kLowest = -40;

// e^x for kLowest <= x <= 0. Made of operations that IEEE 754 defines exactly, where libraries
// differ in the last bit.
double exact_exp(double x) {
  const double n = std::floor(std::fma(x, 1.4426950408889634, 0.5));
  double r = std::fma(n, -6.93147180369123816490e-01, x);  // ln 2 in two parts
  r = std::fma(n, -1.90821492927058770002e-10, r);
  double p = 1;
  for (int k = 13; k >= 1; --k) p = std::fma(p, r / k, 1.0);
  return std::ldexp(p, static_cast<int>(n));
}

[[noreturn]] void refuse_logits(const std::string& what) {
  throw Error(ErrorCode::kRuntime, "", "the logits " + what,
              "The model's programs computed nonsense: verify the bundle");
}

void check_logits(const float* logits, uint32_t count) {
  bool any = false;
  for (uint32_t i = 0; i < count; ++i) {
    if (std::isnan(logits[i]) || logits[i] == std::numeric_limits<float>::infinity()) {
      refuse_logits("of token " + std::to_string(i) + " is " + std::to_string(logits[i]));
    }
    any = any || std::isfinite(logits[i]);
  }
  if (!any) refuse_logits("are all -infinity");
}

}  // namespace

Sampler::Sampler(const SamplingSettings& settings, uint32_t vocab_size)
    : settings_(settings), vocab_size_(vocab_size) {
  const auto refuse = [](const char* setting, const char* rule) {
    throw Error(ErrorCode::kUsage, Setting{setting}, rule, "Correct this setting.");
  };
  if (!std::isfinite(settings.temperature) || settings.temperature < 0) {
    refuse("temperature", "must be a finite number, at least 0");
  }
  if (!(settings.top_p > 0 && settings.top_p <= 1)) refuse("top_p", "must be above 0, at most 1");
  if (vocab_size == 0) throw Error(ErrorCode::kUsage, "", "the vocabulary is empty");
}

uint32_t Sampler::sample(const float* logits) {
  check_logits(logits, vocab_size_);
  if (settings_.temperature == 0) {
    return static_cast<uint32_t>(std::max_element(logits, logits + vocab_size_) - logits);
  }
  return draw(logits);
}

uint32_t Sampler::draw(const float* logits) {
  const double largest = *std::max_element(logits, logits + vocab_size_);
  const double temperature = settings_.temperature;
  // Candidates in the order of their ids, then their weights relative to the best.
  order_.clear();
  weights_.assign(vocab_size_, 0.0);
  for (uint32_t id = 0; id < vocab_size_; ++id) {
    const double x = (static_cast<double>(logits[id]) - largest) / temperature;
    if (x < kLowest) continue;
    order_.push_back(id);
    weights_[id] = exact_exp(x);
  }
  const auto better = [&](uint32_t a, uint32_t b) {
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
  };
  if (settings_.top_k > 0 && settings_.top_k < order_.size()) {
    std::partial_sort(order_.begin(), order_.begin() + settings_.top_k, order_.end(), better);
    order_.resize(settings_.top_k);
  }
  double total = 0;
  for (const uint32_t id : order_) total += weights_[id];
  if (settings_.top_p < 1) {
    // A heap gives the best one by one: a sort of the whole vocabulary would cost more than the
    // model's head.
    const double wanted = total * static_cast<double>(settings_.top_p);
    const auto worse = [&](uint32_t a, uint32_t b) { return better(b, a); };
    std::make_heap(order_.begin(), order_.end(), worse);
    auto end = order_.end();
    total = 0;
    while (end != order_.begin() && total < wanted) {
      std::pop_heap(order_.begin(), end, worse);
      total += weights_[*--end];
    }
    order_.erase(order_.begin(), end);
    std::reverse(order_.begin(), order_.end());
  }
  const double unit = static_cast<double>(split_mix_64(settings_.seed, draws_++) >> 11) * 0x1p-53;
  const double target = unit * total;
  double sum = 0;
  for (const uint32_t id : order_) {
    sum += weights_[id];
    if (sum > target) return id;
  }
  return order_.back();  // rounding let the target reach the total
}

}  // namespace moe_mobile
