# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
#
# Toolchain of the runtime for phones: Debian's cross compiler, glibc, any 64-bit ARM processor.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)

set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)

# The first ARMv8: kernels that use more ask the processor first.
set(CMAKE_CXX_FLAGS_INIT "-march=armv8-a")

# Programs come from this machine, libraries and headers from the compiler's own folders.
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
