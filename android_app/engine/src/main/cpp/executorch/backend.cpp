// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#include "executorch/backend.h"

#include "executorch/xnnpack/xnnpack_backend.h"

namespace moe_mobile {
namespace {

// ExecuTorch's own kernels. Their constants are in the program, which LoadedProgram keeps.
class PortableBackend : public Backend {
 public:
  const char* name() const override { return ""; }
  std::unique_ptr<Method> load(const LoadedProgram& program, const char* method,
                               PlannedArena* arena) const override {
    return std::make_unique<Method>(program, method, arena, nullptr);
  }
  const PackedWeights* packed_weights() const override { return nullptr; }
};

}  // namespace

const Backend& backend_of(Delegate delegate) {
  static const XnnpackBackend xnnpack;
  static const PortableBackend portable;
  switch (delegate) {
    case Delegate::kXnnpack:
      return xnnpack;
    case Delegate::kPortable:
      break;
  }
  return portable;
}

}  // namespace moe_mobile
