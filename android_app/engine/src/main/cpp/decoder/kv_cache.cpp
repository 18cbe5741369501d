// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "decoder/kv_cache.h"

#include <sys/mman.h>

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
  // Each factor is below 2^33: one product of three fits 128 bits, the rest is checked step by
  // step.
  auto bytes = static_cast<unsigned __int128>(shape.num_layers) * 2 * shape.num_kv_heads;
  bytes *= shape.context;
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

uint8_t* KvCache::at(uint32_t layer, uint32_t which, uint32_t kv_head) const {
  const uint64_t head_bytes =
      static_cast<uint64_t>(shape_.context) * stride_ * element_bytes(shape_);
  const uint64_t index = (static_cast<uint64_t>(layer) * 2 + which) * shape_.num_kv_heads + kv_head;
  return data_ + index * head_bytes;
}

void KvCache::append(uint32_t layer, uint32_t first, uint32_t count, const float* k,
                     const float* v) {
  if (layer >= shape_.num_layers || count > shape_.context || first > shape_.context - count) {
    throw Error(ErrorCode::kUsage, Setting{"context"},
                "position " + std::to_string(static_cast<uint64_t>(first) + count) +
                    " is beyond the KV cache's context of " + std::to_string(shape_.context),
                "Raise the context or shorten the prompt");
  }
  const float* sources[] = {k, v};
  for (uint32_t which = 0; which < 2; ++which) {
    for (uint32_t head = 0; head < shape_.num_kv_heads; ++head) {
      uint8_t* rows = at(layer, which, head);
      for (uint32_t i = 0; i < count; ++i) {
        const float* source =
            sources[which] +
            (static_cast<size_t>(i) * shape_.num_kv_heads + head) * shape_.head_dim;
        const size_t element = (static_cast<size_t>(first) + i) * stride_;
        if (shape_.float32) {
          std::memcpy(rows + 4 * element, source, 4 * static_cast<size_t>(shape_.head_dim));
        } else {
          floats_to_halves(source, reinterpret_cast<uint16_t*>(rows) + element, shape_.head_dim);
        }
      }
    }
  }
}

void KvCache::clear() { ::madvise(data_, bytes_, MADV_DONTNEED); }

}  // namespace moe_mobile
