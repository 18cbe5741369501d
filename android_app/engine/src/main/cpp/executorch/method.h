// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <executorch/extension/memory_allocator/malloc_memory_allocator.h>
#include <executorch/runtime/backend/backend_options_map.h>
#include <executorch/runtime/executor/memory_manager.h>
#include <executorch/runtime/executor/method.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/span.h"
#include "executorch/program.h"

namespace moe_mobile {

// A float32 matrix that goes into a method.
struct MatrixIn {
  const float* data;
  uint32_t rows;
  uint32_t columns;
};

// The destination of a method's output: at least rows x columns floats.
struct MatrixOut {
  float* data;
  uint32_t columns;
};

// One loaded method of a program, called with matrices. Not thread safe; methods that share an
// arena must not run at the same time.
class Method {
 public:
  // `options` are for the program's delegate (nullptr without one) and needed only during this
  // call; Backend::load() supplies them. kRuntime if ExecuTorch refuses the method.
  Method(const LoadedProgram& program, const char* name, PlannedArena* arena,
         const executorch::runtime::LoadBackendOptionsMap* options);
  ~Method();
  Method(const Method&) = delete;
  Method& operator=(const Method&) = delete;

  // Runs the method. All inputs have the same number of rows; outputs get as many. kRuntime if
  // ExecuTorch fails or a shape differs.
  void run(Span<const MatrixIn> inputs, Span<const MatrixOut> outputs);

 private:
  std::string label_;
  executorch::extension::MallocMemoryAllocator method_allocator_;
  executorch::extension::MallocMemoryAllocator temporary_allocator_;
  std::unique_ptr<executorch::runtime::MemoryManager> memory_;
  std::optional<executorch::runtime::Method> method_;
};

}  // namespace moe_mobile
