// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

// Our kernels are compiled for the baseline instruction set. Functions marked with these attributes
// use more instructions, and are called only if the CPU has them.
#if defined(__x86_64__)
#define MOE_X86 1
#define MOE_TARGET_AVX2 __attribute__((target("avx2,fma,f16c")))
#define MOE_TARGET_SHA __attribute__((target("sha,sse4.1,ssse3")))
#if defined(__clang__)
#define MOE_TARGET_CRC __attribute__((target("sse4.2,crc32")))
#else
#define MOE_TARGET_CRC __attribute__((target("sse4.2")))
#endif
#elif defined(__aarch64__)
#define MOE_ARM64 1
#if defined(__clang__)
#define MOE_TARGET_SHA __attribute__((target("sha2")))
#define MOE_TARGET_CRC __attribute__((target("crc")))
#else
#define MOE_TARGET_SHA __attribute__((target("+crypto")))
#define MOE_TARGET_CRC __attribute__((target("+crc")))
#endif
#endif

namespace moe_mobile {

bool cpu_has_avx2();  // with FMA and F16C
bool cpu_has_sha();
bool cpu_has_crc32c();

// The cores that this process may run on; at least 1.
unsigned available_cores();

}  // namespace moe_mobile
