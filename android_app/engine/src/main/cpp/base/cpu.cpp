// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "base/cpu.h"

#include <sched.h>

#if defined(MOE_X86)
#include <cpuid.h>
#elif defined(MOE_ARM64)
#include <sys/auxv.h>
#endif

namespace moe_mobile {

#if defined(MOE_X86)

namespace {

struct Leaf {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  Leaf(unsigned leaf, unsigned subleaf) {
    __get_cpuid_count(leaf, subleaf, &eax, &ebx, &ecx, &edx);
  }
};

}  // namespace

bool cpu_has_avx2() {
  // The compiler's check also covers whether the operating system saves the wide registers.
  static const bool has = __builtin_cpu_supports("avx2") != 0 &&
                          __builtin_cpu_supports("fma") != 0 && (Leaf(1, 0).ecx & bit_F16C) != 0;
  return has;
}

bool cpu_has_sha() {
  static const bool has =
      __builtin_cpu_supports("sse4.1") != 0 && (Leaf(7, 0).ebx & (1u << 29)) != 0;
  return has;
}

bool cpu_has_crc32c() {
  static const bool has = __builtin_cpu_supports("sse4.2") != 0;
  return has;
}

#elif defined(MOE_ARM64)

// Bits of AT_HWCAP, part of the kernel's interface.
bool cpu_has_avx2() { return false; }
bool cpu_has_sha() { return (getauxval(AT_HWCAP) & (1ul << 6)) != 0; }
bool cpu_has_crc32c() { return (getauxval(AT_HWCAP) & (1ul << 7)) != 0; }

#else

bool cpu_has_avx2() { return false; }
bool cpu_has_sha() { return false; }
bool cpu_has_crc32c() { return false; }

#endif

unsigned available_cores() {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  if (sched_getaffinity(0, sizeof cores, &cores) != 0) return 1;
  return static_cast<unsigned>(CPU_COUNT(&cores));
}

}  // namespace moe_mobile
