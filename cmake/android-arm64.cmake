# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
#
# Toolchain for Android's own C library: the NDK that the first set variable of three names.
foreach(variable ANDROID_NDK ANDROID_NDK_ROOT ANDROID_NDK_HOME)
  if(NOT "$ENV{${variable}}" STREQUAL "")
    set(_moe_ndk "$ENV{${variable}}")
    break()
  endif()
endforeach()
if(NOT _moe_ndk)
  message(FATAL_ERROR
    "Set ANDROID_NDK (or ANDROID_NDK_ROOT, or ANDROID_NDK_HOME) to the folder of an Android NDK.")
endif()
set(_moe_ndk_toolchain "${_moe_ndk}/build/cmake/android.toolchain.cmake")
if(NOT EXISTS "${_moe_ndk_toolchain}")
  message(FATAL_ERROR "${variable} names no Android NDK: ${_moe_ndk_toolchain} is missing.")
endif()

set(ANDROID_ABI arm64-v8a)
# Android 9, the first with aligned_alloc.
set(ANDROID_PLATFORM android-28)
# One file to send: without libc++_shared.so next to it.
set(ANDROID_STL c++_static)
set(ANDROID_SUPPORT_FLEXIBLE_PAGE_SIZES ON)
include("${_moe_ndk_toolchain}")
