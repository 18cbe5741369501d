// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

namespace moe_mobile {

// Memory of this process as the kernel counts it, in bytes.
struct ProcessMemory {
  uint64_t rss_anon = 0;
  uint64_t rss_file = 0;
  uint64_t rss = 0;       // VmRSS
  uint64_t peak_rss = 0;  // VmHWM
  uint64_t swap = 0;      // VmSwap
  uint64_t major_faults = 0;
};

// kIo if the kernel's files cannot be read. Members the kernel does not report stay 0.
ProcessMemory read_process_memory(const std::string& proc_self = "/proc/self");

}  // namespace moe_mobile
