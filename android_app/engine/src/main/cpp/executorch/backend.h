// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <memory>

#include "bundle/manifest.h"
#include "executorch/method.h"
#include "executorch/packed_weights.h"
#include "executorch/program.h"

namespace moe_mobile {

// Loads programs of one delegate. Programs of different delegates may be loaded at the same time.
// Backends have no state.
class Backend {
 public:
  virtual ~Backend() = default;
  // What programs call the delegate; empty for ExecuTorch's own kernels.
  virtual const char* name() const = 0;
  // Loads a method that owns its weights. kRuntime if ExecuTorch refuses it.
  virtual std::unique_ptr<Method> load(const LoadedProgram& program, const char* method,
                                       PlannedArena* arena) const = 0;
  // The delegate's packed weights; nullptr if they cannot be kept and exchanged.
  virtual const PackedWeights* packed_weights() const = 0;
};

const Backend& backend_of(Delegate delegate);

}  // namespace moe_mobile
