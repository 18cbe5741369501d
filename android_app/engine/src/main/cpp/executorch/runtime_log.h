// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <string>

namespace moe_mobile {

// ExecuTorch logs to stderr by itself, but a library must not. These functions replace its platform
// layer: messages are kept, and the last ones explain a failure.

// Installs the log sink and initialises ExecuTorch. Safe to call more than once.
void init_executorch();

// Error messages ExecuTorch logged since the last call, newest last, joined by "; " (empty if
// none).
std::string take_executorch_errors();

}  // namespace moe_mobile
