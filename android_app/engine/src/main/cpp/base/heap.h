// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#pragma once

namespace moe_mobile {

// Gives memory that was freed back to the system. The allocator keeps some of the memory that
// packing used and freed: in our runs up to a third of a small plan, too much for a budget.
void return_free_heap();

// From now on large blocks are separate mappings, which go back to the system when they are freed.
// Otherwise programs of some MiB that come and go leave holes in the heap: 28 % more memory than
// planned in our runs. Applies to the whole process.
void keep_large_blocks_out_of_heap();

}  // namespace moe_mobile
