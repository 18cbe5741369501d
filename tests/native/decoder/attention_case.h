// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <memory>
#include <random>
#include <vector>

#include "base/half.h"
#include "decoder/attention.h"
#include "decoder/kv_cache.h"

namespace moe_mobile::testing {

// One query at `position`.
inline void attend(const AttentionCall& call, uint32_t position, const float* q, float* out,
                   const ParallelFor& parallel = serial_for) {
  attend_batch(call, position, 1, q, out, parallel);
}

// A random KV cache with queries for every position, and the attention by definition, in double.
// Its shape has a row for each position.
class AttentionCase {
 public:
  AttentionCase(const KvShape& shape, uint32_t group, unsigned seed)
      : shape_(shape), heads_(shape.num_kv_heads * group), cache_(new KvCache(shape)) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    const size_t rows = shape.rows;
    q.resize(rows * heads_ * shape.head_dim);
    for (float& x : q) x = 2 * normal(random);
    k.resize(rows * shape.num_kv_heads * shape.head_dim);
    v.resize(k.size());
    for (float& x : k) x = normal(random);
    for (float& x : v) x = normal(random);
    cache_->append(0, shape.rows, k.data(), v.data());
  }

  AttentionCall call(uint32_t window) const {
    AttentionCall call;
    call.cache = cache_.get();
    call.num_heads = heads_;
    call.scale = 1 / std::sqrt(static_cast<float>(shape_.head_dim));
    call.window = window;
    return call;
  }

  size_t row_size() const { return static_cast<size_t>(heads_) * shape_.head_dim; }

  std::vector<double> expected(uint32_t position, uint32_t window) const {
    const uint32_t dim = shape_.head_dim, group = heads_ / shape_.num_kv_heads;
    std::vector<double> out(row_size());
    for (uint32_t h = 0; h < heads_; ++h) {
      std::vector<double> weights;
      std::vector<uint32_t> positions;
      double total = 0;
      for (uint32_t t = 0; t <= position; ++t) {
        if (window > 0 && t + window <= position) continue;
        double score = 0;
        for (uint32_t d = 0; d < dim; ++d) {
          score += static_cast<double>(q[position * row_size() + h * dim + d]) *
                   stored(k, t, h / group, d);
        }
        weights.push_back(std::exp(score * call(0).scale));
        positions.push_back(t);
        total += weights.back();
      }
      for (size_t i = 0; i < weights.size(); ++i) {
        for (uint32_t d = 0; d < dim; ++d) {
          out[h * dim + d] += weights[i] / total * stored(v, positions[i], h / group, d);
        }
      }
    }
    return out;
  }

  std::vector<float> q;     // [rows, heads x head_dim]
  std::vector<float> k, v;  // [rows, kv heads x head_dim]

 private:
  double stored(const std::vector<float>& rows, uint32_t t, uint32_t kv_head, uint32_t d) const {
    const float x =
        rows[(static_cast<size_t>(t) * shape_.num_kv_heads + kv_head) * shape_.head_dim + d];
    return shape_.float32 ? x : half_to_float(float_to_half(x));
  }

  KvShape shape_;
  uint32_t heads_;
  std::unique_ptr<KvCache> cache_;
};

}  // namespace moe_mobile::testing
