# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
#
# Target `moe_executorch`: the ExecuTorch libraries, and moe_set_rpath() for whatever links them.
# They are those of the wheel that Python has installed. A build for another machine names its own,
# -DMOE_EXECUTORCH_DIR=FOLDER: for Linux the folder `executorch` of that machine's unpacked wheel,
# for Android an install of ExecuTorch's CMake build (or EXECUTORCH_ANDROID_DIR in the environment).
if(ANDROID AND NOT MOE_EXECUTORCH_DIR)
  set(MOE_EXECUTORCH_DIR "$ENV{EXECUTORCH_ANDROID_DIR}")
endif()
if(NOT MOE_EXECUTORCH_DIR)
  if(CMAKE_CROSSCOMPILING)
    message(FATAL_ERROR "Name ExecuTorch for ${CMAKE_SYSTEM_NAME} on ${CMAKE_SYSTEM_PROCESSOR} "
      "with -DMOE_EXECUTORCH_DIR=FOLDER; docs/phone-runtime.md says where to get it.")
  endif()
  moe_python_package_dir(MOE_EXECUTORCH_DIR executorch)
endif()

add_library(moe_executorch INTERFACE)
target_compile_definitions(moe_executorch INTERFACE MOE_EXECUTORCH_VERSION="${MOE_EXECUTORCH_VERSION}")
# ExecuTorch's macros name their file: the same in every build, wherever ExecuTorch lies.
target_compile_options(moe_executorch INTERFACE
  "-fmacro-prefix-map=${MOE_EXECUTORCH_DIR}=executorch")

if(ANDROID)
  # Static libraries under the names of ExecuTorch's own build, which states no version to check.
  # The NDK's toolchain would look for packages inside the NDK only.
  find_package(executorch CONFIG REQUIRED
    PATHS "${MOE_EXECUTORCH_DIR}/lib/cmake/ExecuTorch"
    NO_DEFAULT_PATH NO_CMAKE_FIND_ROOT_PATH)
  set(_moe_components executorch xnnpack_backend optimized_native_cpu_ops_lib extension_threadpool)
  foreach(component IN LISTS _moe_components)
    if(NOT TARGET ${component})
      message(FATAL_ERROR "${MOE_EXECUTORCH_DIR} was built without ${component}: build ExecuTorch "
        "${MOE_EXECUTORCH_VERSION} with its options for XNNPACK and the optimized kernels on.")
    endif()
  endforeach()
else()
  set(_moe_components runtime backend_xnnpack kernels_optimized threadpool)
  find_package(executorch ${MOE_EXECUTORCH_VERSION} EXACT REQUIRED COMPONENTS ${_moe_components}
    PATHS "${MOE_EXECUTORCH_DIR}/share/cmake" NO_DEFAULT_PATH)
  list(TRANSFORM _moe_components PREPEND "executorch::")
  # The imported targets put the absolute path of this machine's site-packages into every consumer's
  # run path. An install that can be moved must not carry it (under build isolation it even names a
  # temporary folder that anybody may create later), so the run paths are set below instead.
  foreach(component IN LISTS _moe_components)
    get_target_property(options ${component} INTERFACE_LINK_OPTIONS)
    if(options)
      list(FILTER options EXCLUDE REGEX "^LINKER:-rpath,")
      set_target_properties(${component} PROPERTIES INTERFACE_LINK_OPTIONS "${options}")
    endif()
  endforeach()
endif()
target_link_libraries(moe_executorch INTERFACE ${_moe_components})

# Lets `target` find the wheel's libraries: by absolute path in the build tree, relative to itself
# once installed. `to_site_packages` leads from the target's folder to site-packages.
function(moe_set_rpath target to_site_packages)
  set_target_properties(${target} PROPERTIES
    BUILD_RPATH "${MOE_EXECUTORCH_DIR}/lib"
    INSTALL_RPATH "$ORIGIN/${to_site_packages}/executorch/lib")
endfunction()
