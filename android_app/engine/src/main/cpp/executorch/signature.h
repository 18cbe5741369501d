// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <cstdint>
#include <vector>

#include "bundle/manifest.h"
#include "executorch/program.h"

namespace moe_mobile {

// The widths (columns) of the float32 matrices that a method takes and gives.
struct Signature {
  std::vector<uint32_t> inputs;
  std::vector<uint32_t> outputs;
};

// Throws kBundleInvalid unless the program has the method for that delegate with that signature,
// and the method takes `rows` rows at once: a manifest that is not of these programs is found when
// they are loaded, not in the middle of a prompt.
void require_method(const LoadedProgram& program, const char* method, Delegate delegate,
                    const Signature& signature, uint32_t rows);

}  // namespace moe_mobile
