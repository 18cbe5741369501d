# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
#
# Installs the engine's sources into the wheel, for `moe-mobile runtime build` where there is no
# checkout. An editable install builds from its checkout.
if(SKBUILD AND NOT SKBUILD_STATE STREQUAL "editable")
  set(_moe_sources moe_mobile/runtime/sources)
  install(FILES CMakeLists.txt CMakePresets.json pyproject.toml LICENSE
    DESTINATION ${_moe_sources} COMPONENT moe_sources)
  install(DIRECTORY cmake DESTINATION ${_moe_sources} COMPONENT moe_sources)
  install(DIRECTORY android_app/engine/src/main/cpp
    DESTINATION ${_moe_sources}/android_app/engine/src/main COMPONENT moe_sources
    # The Python module's room: no phone has use for it.
    PATTERN python EXCLUDE)
endif()
