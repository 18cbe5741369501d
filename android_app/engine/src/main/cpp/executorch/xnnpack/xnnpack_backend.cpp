// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#include "executorch/xnnpack/xnnpack_backend.h"

#include <executorch/runtime/backend/backend_options_map.h>
#include <executorch/runtime/backend/options.h>

#include "base/error.h"
#include "executorch/xnnpack/layout_key.h"
#include "executorch/xnnpack/packed_layout.h"
#include "executorch/xnnpack/packed_methods.h"
#include "executorch/xnnpack/packer.h"

namespace moe_mobile {
namespace {

namespace et = executorch::runtime;

// XNNPACK's names for itself and for its load-time options.
constexpr char kName[] = "XnnpackBackend";
constexpr size_t kMaxPackedPath = 240;

class XnnpackWeights : public PackedWeights {
 public:
  std::string layout_key() const override { return xnnpack_layout_key(); }
  PackedImage pack(const LoadedProgram& program, const char* method, PlannedArena* arena,
                   const std::string& scratch_path, const Loaded& loaded) const override {
    return pack_method(program, method, arena, scratch_path, loaded);
  }
  uint64_t weight_bytes(Span<const uint8_t> index, const std::string& file) const override {
    return parse_packed_index(index, file).weight_bytes;
  }
  bool same_layout(Span<const uint8_t> a, Span<const uint8_t> b,
                   const std::string& file) const override {
    return parse_packed_index(a, file).fits(parse_packed_index(b, file));
  }
  std::unique_ptr<ExchangeableMethods> make_methods(const std::string& directory,
                                                    size_t count) const override {
    return std::make_unique<PackedMethods>(directory, count);
  }
};

}  // namespace

const char* XnnpackBackend::name() const { return kName; }

std::unique_ptr<Method> XnnpackBackend::load(const LoadedProgram& program, const char* method,
                                             PlannedArena* arena) const {
  return load_with_xnnpack(program, method, arena, /*packed_path=*/"", Workspace::kShared);
}

const PackedWeights* XnnpackBackend::packed_weights() const {
  static const XnnpackWeights weights;
  return &weights;
}

std::unique_ptr<Method> load_with_xnnpack(const LoadedProgram& program, const char* method,
                                          PlannedArena* arena, const std::string& packed_path,
                                          Workspace workspace) {
  if (packed_path.size() > kMaxPackedPath)
    throw Error(ErrorCode::kUsage, packed_path, "this path is too long for XNNPACK",
                "Choose a shorter `packed_dir`.");
  et::BackendOptions<3> options;
  (void)options.set_option("workspace_sharing_mode", static_cast<int>(workspace));
  (void)options.set_option("weight_cache_enabled", !packed_path.empty());
  if (!packed_path.empty()) (void)options.set_option("packed_cache_path", packed_path.c_str());
  et::LoadBackendOptionsMap map;
  (void)map.set_options(kName, options.view());
  return std::make_unique<Method>(program, method, arena, &map);
}

}  // namespace moe_mobile
