// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "executorch/packed_layout.h"
#include "executorch/program.h"

namespace moe_mobile {

// One method's weights as XNNPACK packed them for this CPU.
struct PackedImage {
  AlignedBuffer weights;
  std::vector<uint8_t> tail;  // index and footer
  PackedLayout layout;
};

// Loads the method once with `scratch_path` as its packed file (created and deleted here) and takes
// what XNNPACK wrote. kRuntime where XNNPACK did not write it; kDiskFull and others where the file
// system refused.
PackedImage pack_method(const LoadedProgram& program, const char* method, PlannedArena* arena,
                        const std::string& scratch_path);

}  // namespace moe_mobile
