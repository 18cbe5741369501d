// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#include "executorch/method.h"

#include <cstring>

#include "base/error.h"
#include "executorch/runtime_log.h"

namespace moe_mobile {

namespace et = executorch::runtime;
using executorch::aten::ScalarType;
using executorch::aten::Tensor;
using executorch::aten::TensorImpl;

namespace {

[[noreturn]] void fail(const std::string& label, const std::string& action, et::Error error) {
  const std::string log = take_executorch_errors();
  throw Error(ErrorCode::kRuntime, label,
              "ExecuTorch could not " + action + " (error " +
                  std::to_string(static_cast<uint32_t>(error)) + ")" +
                  (log.empty() ? "" : ": " + log),
              "Run `moe-mobile verify` on the bundle; if it is intact, export it again.");
}

}  // namespace

Method::Method(const LoadedProgram& program, const char* name, PlannedArena* arena,
               const et::LoadBackendOptionsMap* options)
    : label_(program.name() + ":" + name) {
  memory_ = std::make_unique<et::MemoryManager>(
      &method_allocator_, arena->fit(program.planned_sizes(name)), &temporary_allocator_);
  auto method = program.program().load_method(name, memory_.get(), nullptr, nullptr, options);
  if (!method.ok()) fail(label_, "load the method", method.error());
  method_.emplace(std::move(method.get()));
}

Method::~Method() = default;

void Method::run(Span<const MatrixIn> inputs, Span<const MatrixOut> outputs) {
  if (method_->inputs_size() != inputs.size() || method_->outputs_size() != outputs.size())
    throw Error(ErrorCode::kRuntime, label_, "the method's signature is not the bundle format's",
                "Export the model again.");
  for (size_t i = 0; i < inputs.size(); ++i) {
    const MatrixIn& in = inputs[i];
    TensorImpl::SizesType sizes[2] = {static_cast<int32_t>(in.rows),
                                      static_cast<int32_t>(in.columns)};
    TensorImpl::DimOrderType order[2] = {0, 1};
    TensorImpl::StridesType strides[2] = {static_cast<int32_t>(in.columns), 1};
    TensorImpl impl(ScalarType::Float, 2, sizes, const_cast<float*>(in.data), order, strides);
    const et::Error error = method_->set_input(et::EValue(Tensor(&impl)), i);
    if (error != et::Error::Ok) fail(label_, "take input " + std::to_string(i), error);
  }
  const et::Error error = method_->execute();
  if (error != et::Error::Ok) fail(label_, "run the method", error);
  temporary_allocator_.reset();
  const uint32_t rows = inputs[0].rows;
  for (size_t i = 0; i < outputs.size(); ++i) {
    const et::EValue& value = method_->get_output(i);
    if (!value.isTensor()) fail(label_, "give a tensor", et::Error::InvalidType);
    const Tensor tensor = value.toTensor();
    const size_t floats = static_cast<size_t>(rows) * outputs[i].columns;
    if (tensor.scalar_type() != ScalarType::Float || tensor.dim() != 2 ||
        tensor.size(0) != static_cast<ssize_t>(rows) ||
        tensor.size(1) != static_cast<ssize_t>(outputs[i].columns))
      throw Error(ErrorCode::kRuntime, label_,
                  "output " + std::to_string(i) + " has another shape than the bundle format says",
                  "Export the model again.");
    std::memcpy(outputs[i].data, tensor.const_data_ptr<float>(), floats * sizeof(float));
  }
}

}  // namespace moe_mobile
