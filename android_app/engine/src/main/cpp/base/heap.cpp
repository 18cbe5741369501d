// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#include "base/heap.h"

#include <malloc.h>

namespace moe_mobile {

void return_free_heap() {
#if defined(__GLIBC__)
  malloc_trim(0);
#elif defined(M_PURGE)
  mallopt(M_PURGE, 0);  // Android
#endif
}

void keep_large_blocks_out_of_heap() {
#if defined(__GLIBC__)
  mallopt(M_MMAP_THRESHOLD, 1 << 20);  // Android's allocator does so anyway
#endif
}

}  // namespace moe_mobile
