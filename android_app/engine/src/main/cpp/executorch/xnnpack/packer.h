// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <string>

#include "executorch/packed_weights.h"

namespace moe_mobile {

// PackedWeights::pack() of XNNPACK: loads the method once with `scratch_path` as its packed file
// (created and deleted here) and returns the contents. kRuntime if XNNPACK did not write the file;
// kDiskFull and others for failures of the file system.
PackedImage pack_method(const LoadedProgram& program, const char* method, PlannedArena* arena,
                        const std::string& scratch_path);

}  // namespace moe_mobile
