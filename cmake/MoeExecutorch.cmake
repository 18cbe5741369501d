# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
#
# Target `moe_executorch`: the ExecuTorch libraries of the wheel, and moe_set_rpath() for whatever
# links them. The wheel is the one that Python has installed; a build for another machine names the
# folder `executorch` of that machine's unpacked wheel: -DMOE_EXECUTORCH_DIR=FOLDER.
if(NOT MOE_EXECUTORCH_DIR)
  moe_python_package_dir(MOE_EXECUTORCH_DIR executorch)
endif()
find_package(executorch 1.5.1 EXACT REQUIRED
  COMPONENTS runtime backend_xnnpack kernels_optimized threadpool
  PATHS "${MOE_EXECUTORCH_DIR}/share/cmake" NO_DEFAULT_PATH)

# The imported targets put the absolute path of this machine's site-packages into every consumer's
# run path. An install that can be moved must not carry it (under build isolation it even names a
# temporary folder that anybody may create later), so the run paths are set below instead.
foreach(component runtime backend_xnnpack kernels_optimized threadpool)
  get_target_property(options executorch::${component} INTERFACE_LINK_OPTIONS)
  if(options)
    list(FILTER options EXCLUDE REGEX "^LINKER:-rpath,")
    set_target_properties(executorch::${component} PROPERTIES INTERFACE_LINK_OPTIONS "${options}")
  endif()
endforeach()

add_library(moe_executorch INTERFACE)
target_link_libraries(moe_executorch INTERFACE
  executorch::runtime executorch::backend_xnnpack executorch::kernels_optimized
  executorch::threadpool)
target_compile_definitions(moe_executorch INTERFACE MOE_EXECUTORCH_VERSION="1.5.1")
# ExecuTorch's macros name their file: the same in every build, wherever the wheel lies.
target_compile_options(moe_executorch INTERFACE
  "-fmacro-prefix-map=${MOE_EXECUTORCH_DIR}=executorch")

# Lets `target` find the wheel's libraries: by absolute path in the build tree, relative to itself
# once installed. `to_site_packages` leads from the target's folder to site-packages.
function(moe_set_rpath target to_site_packages)
  set_target_properties(${target} PROPERTIES
    BUILD_RPATH "${MOE_EXECUTORCH_DIR}/lib"
    INSTALL_RPATH "$ORIGIN/${to_site_packages}/executorch/lib")
endfunction()
