// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "decoder/sampler.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>

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

// Below this the weight, less than 1e-17 of the largest, counts as zero.
constexpr double kLowest = -40;

// 1/k!, highest first.
constexpr double kExpTerms[] = {1.0 / 6227020800,
                                1.0 / 479001600,
                                1.0 / 39916800,
                                1.0 / 3628800,
                                1.0 / 362880,
                                1.0 / 40320,
                                1.0 / 5040,
                                1.0 / 720,
                                1.0 / 120,
                                1.0 / 24,
                                1.0 / 6,
                                1.0 / 2,
                                1.0,
                                1.0};

// e^x for -700 <= x <= 0. Uses only operations that IEEE 754 defines exactly, because libraries
// differ in the last bit. This file is compiled without contraction to fused operations.
double exact_exp(double x) {
  // Adding 1.5 * 2^52 rounds to an integer, which then is in the lowest bits.
  constexpr double kMagic = 6755399441055744.0;
  const double shifted = x * 1.4426950408889634 + kMagic;
  const double n = shifted - kMagic;
  // ln 2 in two parts; the product with the first is exact.
  const double r = (x - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10;
  double p = kExpTerms[0];
  for (size_t k = 1; k < std::size(kExpTerms); ++k) p = p * r + kExpTerms[k];
  uint64_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = (bits + 1023) << 52;  // 2^n
  double scale;
  std::memcpy(&scale, &bits, sizeof scale);
  return p * scale;
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
  if (settings_.temperature == 0) {
    return static_cast<uint32_t>(std::max_element(logits, logits + vocab_size_) - logits);
  }
  return draw(logits);
}

uint32_t Sampler::draw(const float* logits) {
  const double largest = *std::max_element(logits, logits + vocab_size_);
  const double temperature = settings_.temperature;
  const double lowest = largest + kLowest * temperature;
  // Candidates in the order of their ids, then their weights relative to the best.
  order_.clear();
  for (uint32_t id = 0; id < vocab_size_; ++id)
    if (logits[id] >= lowest) order_.push_back(id);
  const auto better = [&](uint32_t a, uint32_t b) {
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
  };
  if (settings_.top_k > 0 && settings_.top_k < order_.size()) {
    std::partial_sort(order_.begin(), order_.begin() + settings_.top_k, order_.end(), better);
    order_.resize(settings_.top_k);
  }
  weights_.resize(vocab_size_);
  double total = 0;
  for (const uint32_t id : order_) {
    weights_[id] = exact_exp((logits[id] - largest) / temperature);
    total += weights_[id];
  }
  if (settings_.top_p < 1) {
    // Sort a few of the best at a time: sorting the whole vocabulary would cost more than the
    // model's head.
    constexpr size_t kSome = 256;
    const double wanted = total * static_cast<double>(settings_.top_p);
    size_t sorted = 0;
    size_t kept = 0;
    total = 0;
    while (kept < order_.size() && total < wanted) {
      if (kept == sorted) {
        sorted = std::min(sorted + std::max(kSome, sorted), order_.size());
        std::partial_sort(order_.begin() + static_cast<ptrdiff_t>(kept),
                          order_.begin() + static_cast<ptrdiff_t>(sorted), order_.end(), better);
      }
      total += weights_[order_[kept++]];
    }
    order_.resize(kept);
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
