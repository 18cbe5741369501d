// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include "executorch/backend.h"

namespace moe_mobile {

// XNNPACK: packs weights while it loads a method, and can keep them in a file
// (`packed_cache_path`), which it maps. Only this folder knows those files.
class XnnpackBackend : public Backend {
 public:
  const char* name() const override;
  std::unique_ptr<Method> load(const LoadedProgram& program, const char* method,
                               PlannedArena* arena) const override;
  const PackedWeights* packed_weights() const override;
};

// XNNPACK's memory for intermediate results, by its numbers. Methods that share one are loaded and
// run one at a time.
enum class Workspace { kOwn = 0, kShared = 2 };

// Loads a method. With an empty `packed_path` XNNPACK packs the weights into its own memory; else
// into that file, or it takes them from the file if they are there. kUsage for a path that is too
// long for XNNPACK; kRuntime if ExecuTorch refuses the method.
std::unique_ptr<Method> load_with_xnnpack(const LoadedProgram& program, const char* method,
                                          PlannedArena* arena, const std::string& packed_path,
                                          Workspace workspace);

}  // namespace moe_mobile
