# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
#
# How this project's own targets are compiled and linked: target `moe_compile_options` (private) and
# the functions moe_add_library() and moe_room_sources().
set(CMAKE_CXX_STANDARD 17)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

find_package(Threads REQUIRED)

add_library(moe_compile_options INTERFACE)
target_compile_options(moe_compile_options INTERFACE -Wall -Wextra
  # The annotations of base/thread_annotations.h, which only clang understands.
  $<$<CXX_COMPILER_ID:Clang>:-Wthread-safety>
  # What macros say of their file is the same wherever the sources lie.
  "-fmacro-prefix-map=${CMAKE_SOURCE_DIR}/=")
if(MOE_WARNINGS_AS_ERRORS)
  target_compile_options(moe_compile_options INTERFACE -Werror)
endif()
# Android devices with 16 KiB pages load only objects aligned for them.
target_link_options(moe_compile_options INTERFACE "LINKER:-z,max-page-size=16384")

if(MOE_SANITIZE STREQUAL "address")
  set(_moe_sanitizers -fsanitize=address,undefined -fno-sanitize-recover=all)
elseif(MOE_SANITIZE STREQUAL "thread")
  set(_moe_sanitizers -fsanitize=thread)
elseif(NOT MOE_SANITIZE STREQUAL "")
  message(FATAL_ERROR "MOE_SANITIZE=${MOE_SANITIZE} is unknown: use address, thread or nothing.")
endif()
if(MOE_SANITIZE)
  # Of the folder, so that a target's own level comes later and counts.
  add_compile_options(-O1)
  # GCC documents that sanitizers make this one warning fire on correct code.
  target_compile_options(moe_compile_options INTERFACE
    ${_moe_sanitizers} -g1 -fno-omit-frame-pointer
    $<$<CXX_COMPILER_ID:GNU>:-Wno-error=maybe-uninitialized>)
  target_link_options(moe_compile_options INTERFACE ${_moe_sanitizers})
endif()

# Sets `output` to the .cpp files directly in or below the named rooms. New files are found by the
# next build, without editing CMake.
function(moe_room_sources output)
  set(globs)
  foreach(room IN LISTS ARGN)
    list(APPEND globs "${CMAKE_CURRENT_SOURCE_DIR}/${room}/*.cpp")
  endforeach()
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${globs})
  set(${output} "${sources}" PARENT_SCOPE)
endfunction()

# A static library of rooms.
function(moe_add_library name)
  moe_room_sources(sources ${ARGN})
  add_library(${name} STATIC ${sources})
  # Includes are written relative to the source root: "base/error.h".
  target_include_directories(${name} PUBLIC "${CMAKE_CURRENT_SOURCE_DIR}")
  target_link_libraries(${name} PRIVATE moe_compile_options PUBLIC Threads::Threads)
endfunction()
