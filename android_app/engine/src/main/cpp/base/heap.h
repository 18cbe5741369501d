// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#pragma once

namespace moe_mobile {

// Gives memory that was freed back to the system. An allocator keeps some of what packing weights
// took and gave back, up to a third of a small plan in our runs; a budget cannot spare that.
void return_free_heap();

// From now on large blocks are mappings of their own, which go back to the system when they are
// freed. Programs of some MiB that come and go would otherwise leave holes in the heap: 28 % more
// than planned in our runs. Holds for the whole process.
void keep_large_blocks_out_of_heap();

}  // namespace moe_mobile
