// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#include "executorch/signature.h"

#include <algorithm>
#include <limits>
#include <string>

#include "base/error.h"
#include "executorch/backend.h"

namespace moe_mobile {
namespace {

namespace et = executorch::runtime;

constexpr const char* kRemedy = "Export the model again.";

// Adds the matrix's width, and takes its rows if they are fewer.
bool add_matrix(const et::Result<et::TensorInfo>& tensor, std::vector<uint32_t>* widths,
                uint32_t* rows) {
  if (!tensor.ok() || tensor->scalar_type() != executorch::aten::ScalarType::Float ||
      tensor->sizes().size() != 2 || tensor->sizes()[0] < 0 || tensor->sizes()[1] < 0)
    return false;
  // If the number of rows is free, its largest value stands here.
  *rows = std::min(*rows, static_cast<uint32_t>(tensor->sizes()[0]));
  widths->push_back(static_cast<uint32_t>(tensor->sizes()[1]));
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

std::optional<Signature> signature_of(const LoadedProgram& program, const char* method) {
  const auto meta = program.program().method_meta(method);
  if (!meta.ok()) return std::nullopt;
  Signature signature;
  signature.rows = std::numeric_limits<uint32_t>::max();
  for (size_t i = 0; i < meta->num_inputs(); ++i)
    if (!add_matrix(meta->input_tensor_meta(i), &signature.inputs, &signature.rows))
      return std::nullopt;
  for (size_t i = 0; i < meta->num_outputs(); ++i)
    if (!add_matrix(meta->output_tensor_meta(i), &signature.outputs, &signature.rows))
      return std::nullopt;
  return signature;
}

void require_method(const LoadedProgram& program, const char* method, Delegate delegate,
                    const Signature& signature) {
  const std::optional<Signature> found = signature_of(program, method);
  const std::string name(method);
  if (!found || found->inputs != signature.inputs || found->outputs != signature.outputs ||
      found->rows < signature.rows)
    throw Error(ErrorCode::kBundleInvalid, program.name(),
                "by the manifest its method " + name + " makes matrices of " +
                    join(signature.outputs) + " columns from " + join(signature.inputs) + ", of " +
                    std::to_string(signature.rows) +
                    " rows at once; the program has no such method",
                kRemedy);
  if (!runs_on(*program.program().method_meta(method), backend_of(delegate).name()))
    throw Error(ErrorCode::kBundleInvalid, program.name(),
                "its method " + name + " is of another delegate than the manifest says", kRemedy);
}

void require_expert(const LoadedProgram& program, const Manifest& manifest, uint32_t layer,
                    uint32_t variant) {
  const uint32_t hidden = manifest.hidden_size;
  require_method(program, "forward", manifest.experts(layer, variant).delegate,
                 {{hidden}, {hidden}, manifest.max_batch});
}

}  // namespace moe_mobile
