# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
#
# Finds the Python whose site-packages hold ExecuTorch, nanobind and the JSON headers, and defines
# moe_python_package_dir() to ask it where a package lies.

# A plain `cmake -S .` in a checkout means the checkout's own environment.
if(NOT SKBUILD AND NOT DEFINED Python_EXECUTABLE
   AND EXISTS "${CMAKE_SOURCE_DIR}/.venv/bin/python")
  set(Python_EXECUTABLE "${CMAKE_SOURCE_DIR}/.venv/bin/python")
endif()

set(_moe_python_components Interpreter)
if(MOE_BUILD_PYTHON)
  list(APPEND _moe_python_components Development.Module)
endif()
find_package(Python 3.11 REQUIRED COMPONENTS ${_moe_python_components})

# Sets `output` to the folder of the importable package `package`, without importing it (importing
# ExecuTorch would import torch).
function(moe_python_package_dir output package)
  execute_process(
    COMMAND "${Python_EXECUTABLE}" -c
            "import importlib.util as u; s = u.find_spec('${package}'); print(list(s.submodule_search_locations)[0] if s else '', end='')"
    OUTPUT_VARIABLE dir
    COMMAND_ERROR_IS_FATAL ANY)
  if(NOT dir)
    message(FATAL_ERROR
      "${Python_EXECUTABLE} has no package '${package}'. Run `make venv`, or give another "
      "interpreter with -DPython_EXECUTABLE=PATH.")
  endif()
  set(${output} "${dir}" PARENT_SCOPE)
endfunction()
