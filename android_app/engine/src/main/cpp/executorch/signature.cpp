// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#include "executorch/signature.h"

#include <string>

#include "base/error.h"
#include "executorch/backend.h"

namespace moe_mobile {
namespace {

namespace et = executorch::runtime;

constexpr const char* kRemedy = "Export the model again.";

bool is_matrix(const et::Result<et::TensorInfo>& tensor, uint32_t width, uint32_t rows) {
  // If the number of rows is free, its largest value stands here.
  return tensor.ok() && tensor->scalar_type() == executorch::aten::ScalarType::Float &&
         tensor->sizes().size() == 2 && tensor->sizes()[1] == static_cast<int64_t>(width) &&
         tensor->sizes()[0] >= static_cast<int64_t>(rows);
}

bool fits(const et::MethodMeta& meta, const Signature& signature, uint32_t rows) {
  if (meta.num_inputs() != signature.inputs.size() ||
      meta.num_outputs() != signature.outputs.size())
    return false;
  for (size_t i = 0; i < signature.inputs.size(); ++i)
    if (!is_matrix(meta.input_tensor_meta(i), signature.inputs[i], rows)) return false;
  for (size_t i = 0; i < signature.outputs.size(); ++i)
    if (!is_matrix(meta.output_tensor_meta(i), signature.outputs[i], rows)) return false;
  return true;
}

// The delegate of all delegated parts; ExecuTorch's own kernels have no name.
bool runs_on(const et::MethodMeta& meta, const char* delegate) {
  for (size_t i = 0; i < meta.num_backends(); ++i) {
    const auto name = meta.get_backend_name(i);
    if (!name.ok() || std::string(*name) != delegate) return false;
  }
  return meta.num_backends() > 0 || *delegate == '\0';
}

std::string join(const std::vector<uint32_t>& widths) {
  std::string text;
  for (const uint32_t width : widths) text += (text.empty() ? "" : ", ") + std::to_string(width);
  return text;
}

}  // namespace

void require_method(const LoadedProgram& program, const char* method, Delegate delegate,
                    const Signature& signature, uint32_t rows) {
  const auto meta = program.program().method_meta(method);
  const std::string name(method);
  if (!meta.ok() || !fits(*meta, signature, rows))
    throw Error(ErrorCode::kBundleInvalid, program.name(),
                "by the manifest its method " + name + " makes matrices of " +
                    join(signature.outputs) + " columns from " + join(signature.inputs) + ", of " +
                    std::to_string(rows) + " rows at once; the program has no such method",
                kRemedy);
  if (!runs_on(*meta, backend_of(delegate).name()))
    throw Error(ErrorCode::kBundleInvalid, program.name(),
                "its method " + name + " is of another delegate than the manifest says", kRemedy);
}

}  // namespace moe_mobile
