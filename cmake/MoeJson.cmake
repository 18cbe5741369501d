# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
#
# Target `moe_json`: the header-only nlohmann/json from its PyPI package.
moe_python_package_dir(_moe_json_package nlohmann_json)
set(_moe_json_include "${_moe_json_package}/include")
if(NOT EXISTS "${_moe_json_include}/nlohmann/json.hpp")
  message(FATAL_ERROR "${_moe_json_include}/nlohmann/json.hpp is missing: reinstall nlohmann-json.")
endif()

add_library(moe_json INTERFACE)
target_include_directories(moe_json SYSTEM INTERFACE "${_moe_json_include}")
