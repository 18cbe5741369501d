// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <string>

#include "executorch/packed_weights.h"

namespace moe_mobile {

// PackedWeights::pack() of XNNPACK: loads the method once with a packed file in memory, or in
// `scratch_path` if the system has none, and returns the contents. kRuntime if XNNPACK did not
// write the file; kDiskFull and others for failures of the file system.
PackedImage pack_method(const LoadedProgram& program, const char* method, PlannedArena* arena,
                        const std::string& scratch_path, const PackedWeights::Loaded& loaded);

}  // namespace moe_mobile
