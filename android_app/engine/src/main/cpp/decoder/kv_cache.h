// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace moe_mobile {

struct KvShape {
  uint32_t num_kv_heads = 0;
  uint32_t head_dim = 0;
  uint32_t rows = 0;     // positions held at once
  bool float32 = false;  // else float16
};

// Keys and values of one layer, stored in place: position p lies in row p % rows. Full attention
// has a row for each position of the context. A sliding window has fewer, and new positions
// overwrite the oldest.
//
// Keys come first, then values, each as [kv_head][row][stride]; a row's elements beyond head_dim
// are zero. Memory is reserved, and becomes resident only when a row is written.
class KvCache {
 public:
  // Throws kBudget if the memory cannot be reserved, kUsage for a dimension of zero.
  explicit KvCache(const KvShape& shape);
  KvCache(const KvCache&) = delete;
  KvCache& operator=(const KvCache&) = delete;
  ~KvCache();

  // Bytes of a full cache. Throws kBudget if 64 bits cannot hold them.
  static uint64_t bytes_for(const KvShape& shape);

  const KvShape& shape() const { return shape_; }
  uint64_t bytes() const { return bytes_; }
  // Elements from one row to the next: head_dim rounded up to whole vectors.
  uint32_t stride() const { return stride_; }

  // Stores positions first .. first + count - 1. k and v are [count, num_kv_heads x head_dim]
  // float32, k rotated. False if the cache is float16 and a value is beyond its range, or is not
  // finite: what it holds of these positions is then of no use. Throws kUsage if count > rows.
  bool append(uint32_t first, uint32_t count, const float* k, const float* v);

  // Row 0 of one head: uint16_t (float16) or float elements.
  const void* keys(uint32_t kv_head) const { return at(0, kv_head); }
  const void* values(uint32_t kv_head) const { return at(1, kv_head); }

  // Bytes of one position: all heads, keys and values.
  uint64_t row_bytes() const { return bytes_ / shape_.rows; }
  // Copies positions first .. first + count - 1 to `saved` [count x row_bytes()], and back.
  // REQUIRES: count <= rows.
  void save(uint32_t first, uint32_t count, uint8_t* saved) const;
  void restore(uint32_t first, uint32_t count, const uint8_t* saved);

  // Gives the memory back. The content is undefined afterwards.
  void clear();

 private:
  uint8_t* at(uint32_t which, uint32_t kv_head) const;
  // Calls visit(bytes in the cache, length) for every piece of these positions, in a fixed order.
  template <typename Visit>
  void for_each_piece(uint32_t first, uint32_t count, const Visit& visit) const;

  KvShape shape_;
  uint32_t stride_ = 0;
  uint64_t bytes_ = 0;
  uint8_t* data_ = nullptr;
};

}  // namespace moe_mobile
