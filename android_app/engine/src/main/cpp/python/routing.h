// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nanobind/nanobind.h>

namespace moe_mobile {

// Lets Ctrl-C stop work that runs without the GIL.
void check_signals();

// Adds simulate() to the module; moe_mobile/routing/simulation.py gives it its public face.
void bind_routing(nanobind::module_* module);

}  // namespace moe_mobile
