// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

namespace moe_mobile {

struct KvShape {
  uint32_t num_layers = 0;
  uint32_t num_kv_heads = 0;
  uint32_t head_dim = 0;
  uint32_t context = 0;  // positions
  bool float32 = false;  // else float16
};

// Keys and values of all layers, appended in place. Each layer holds its keys, then its values,
// each as [kv_head][position][stride]; a row's elements beyond head_dim are zero. Memory is
// reserved, not resident, until a position is written. Layers with a sliding window keep the whole
// context in this version.
class KvCache {
 public:
  // kBudget if it cannot be reserved.
  explicit KvCache(const KvShape& shape);
  KvCache(const KvCache&) = delete;
  KvCache& operator=(const KvCache&) = delete;
  ~KvCache();

  // Bytes that the full context takes; kBudget where 64 bits cannot hold them.
  static uint64_t bytes_for(const KvShape& shape);

  const KvShape& shape() const { return shape_; }
  uint64_t bytes() const { return bytes_; }
  // Elements from one position to the next: head_dim rounded up to whole vectors.
  uint32_t stride() const { return stride_; }

  // Stores `count` positions of one layer from `first` on; k and v are [count, num_kv_heads x
  // head_dim] float32, k rotated. Overwriting is allowed. kUsage beyond the context.
  void append(uint32_t layer, uint32_t first, uint32_t count, const float* k, const float* v);

  // First position of one head: uint16_t (float16) or float elements.
  const void* keys(uint32_t layer, uint32_t kv_head) const { return at(layer, 0, kv_head); }
  const void* values(uint32_t layer, uint32_t kv_head) const { return at(layer, 1, kv_head); }

  // Gives the memory back; the content is undefined afterwards.
  void clear();

 private:
  uint8_t* at(uint32_t layer, uint32_t which, uint32_t kv_head) const;

  KvShape shape_;
  uint32_t stride_ = 0;
  uint64_t bytes_ = 0;
  uint8_t* data_ = nullptr;
};

}  // namespace moe_mobile
