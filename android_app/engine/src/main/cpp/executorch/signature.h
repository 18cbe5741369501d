// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "bundle/manifest.h"
#include "executorch/program.h"

namespace moe_mobile {

// The widths (columns) of the float32 matrices that a method takes and gives.
struct Signature {
  std::vector<uint32_t> inputs;
  std::vector<uint32_t> outputs;
  uint32_t rows = 0;  // that it takes at once, at most
};

// nullopt if the program has no such method, or one that takes or gives something else.
std::optional<Signature> signature_of(const LoadedProgram& program, const char* method);

// Throws kBundleInvalid unless the program has the method for that delegate with that signature; it
// may take more rows. A manifest that is not of these programs is found when they are loaded, not
// in the middle of a prompt.
void require_method(const LoadedProgram& program, const char* method, Delegate delegate,
                    const Signature& signature);
// The same for an expert of that layer and variant.
void require_expert(const LoadedProgram& program, const Manifest& manifest, uint32_t layer,
                    uint32_t variant);

}  // namespace moe_mobile
