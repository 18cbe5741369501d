// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "decoder/kv_cache.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <string>

#include "base/error.h"
#include "base/half.h"

namespace moe_mobile {
namespace {

constexpr uint32_t kVector = 8;

uint32_t stride_of(const KvShape& shape) {
  return (shape.head_dim + kVector - 1) / kVector * kVector;
}

uint64_t element_bytes(const KvShape& shape) { return shape.float32 ? 4 : 2; }

}  // namespace

uint64_t KvCache::bytes_for(const KvShape& shape) {
  constexpr auto kMax = static_cast<unsigned __int128>(std::numeric_limits<int64_t>::max());
  // Each factor is below 2^33: a product of three fits in 128 bits, the last is checked first.
  auto bytes = static_cast<unsigned __int128>(2) * shape.num_kv_heads * shape.rows;
  if (bytes <= kMax) bytes *= stride_of(shape) * element_bytes(shape);
  if (bytes > kMax) {
    throw Error(ErrorCode::kBudget, Setting{"context"},
                "the KV cache would be larger than any memory", "Shorten the context");
  }
  return static_cast<uint64_t>(bytes);
}

KvCache::KvCache(const KvShape& shape)
    : shape_(shape), stride_(stride_of(shape)), bytes_(bytes_for(shape)) {
  if (bytes_ == 0) throw Error(ErrorCode::kUsage, "", "the KV cache has a dimension of zero");
  void* data = ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) {
    throw Error(ErrorCode::kBudget, Setting{"context"},
                "cannot reserve " + std::to_string(bytes_) + " bytes for the KV cache",
                "Shorten the context");
  }
  // Huge pages would make 2 MiB per head resident with the first position.
  ::madvise(data, bytes_, MADV_NOHUGEPAGE);
  data_ = static_cast<uint8_t*>(data);
}

KvCache::~KvCache() { ::munmap(data_, bytes_); }

uint8_t* KvCache::at(uint32_t which, uint32_t kv_head) const {
  const uint64_t head_bytes = static_cast<uint64_t>(shape_.rows) * stride_ * element_bytes(shape_);
  return data_ + (static_cast<uint64_t>(which) * shape_.num_kv_heads + kv_head) * head_bytes;
}

bool KvCache::append(uint32_t first, uint32_t count, const float* k, const float* v) {
  if (count > shape_.rows) {
    throw Error(ErrorCode::kUsage, "",
                std::to_string(count) + " positions do not fit in a KV cache of " +
                    std::to_string(shape_.rows));
  }
  const float* sources[] = {k, v};
  bool all_fit = true;
  for (uint32_t which = 0; which < 2; ++which) {
    for (uint32_t head = 0; head < shape_.num_kv_heads; ++head) {
      uint8_t* rows = at(which, head);
      for (uint32_t i = 0; i < count; ++i) {
        const float* source =
            sources[which] +
            (static_cast<size_t>(i) * shape_.num_kv_heads + head) * shape_.head_dim;
        const size_t element = static_cast<size_t>((first + i) % shape_.rows) * stride_;
        if (shape_.float32) {
          std::memcpy(rows + 4 * element, source, 4 * static_cast<size_t>(shape_.head_dim));
        } else {
          all_fit &= floats_to_halves(source, reinterpret_cast<uint16_t*>(rows) + element,
                                      shape_.head_dim);
        }
      }
    }
  }
  return all_fit;
}

template <typename Visit>
void KvCache::for_each_piece(uint32_t first, uint32_t count, const Visit& visit) const {
  const uint64_t one = static_cast<uint64_t>(stride_) * element_bytes(shape_);
  const uint32_t begin = first % shape_.rows;
  const uint32_t before_end = std::min(count, shape_.rows - begin);
  for (uint32_t which = 0; which < 2; ++which) {
    for (uint32_t head = 0; head < shape_.num_kv_heads; ++head) {
      visit(at(which, head) + begin * one, before_end * one);
      visit(at(which, head), (count - before_end) * one);
    }
  }
}

void KvCache::save(uint32_t first, uint32_t count, uint8_t* saved) const {
  for_each_piece(first, count, [&saved](const uint8_t* piece, uint64_t length) {
    std::memcpy(saved, piece, length);
    saved += length;
  });
}

void KvCache::restore(uint32_t first, uint32_t count, const uint8_t* saved) {
  for_each_piece(first, count, [&saved](uint8_t* piece, uint64_t length) {
    std::memcpy(piece, saved, length);
    saved += length;
  });
}

void KvCache::clear() { ::madvise(data_, bytes_, MADV_DONTNEED); }

}  // namespace moe_mobile
