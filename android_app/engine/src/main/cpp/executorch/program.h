// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <executorch/runtime/core/data_loader.h>
#include <executorch/runtime/core/hierarchical_allocator.h>
#include <executorch/runtime/executor/program.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/file.h"

namespace moe_mobile {

// Planned memory (inputs, outputs and intermediates) shared by methods that never run at the same
// time.
class PlannedArena {
 public:
  // Grows to at least `sizes`, one per planned buffer. Methods loaded before keep their old memory
  // alive.
  executorch::runtime::HierarchicalAllocator* fit(const std::vector<size_t>& sizes);

 private:
  struct Generation {
    std::vector<AlignedBuffer> buffers;
    std::vector<executorch::runtime::Span<uint8_t>> spans;
    std::unique_ptr<executorch::runtime::HierarchicalAllocator> allocator;
  };
  std::vector<std::unique_ptr<Generation>> generations_;
  std::vector<size_t> sizes_;
};

// A parsed ExecuTorch program. Its weights (named data) are needed only while methods are loaded,
// so release_weights() lets the caller free the bytes: everything that execution needs was copied.
class LoadedProgram {
 public:
  // `bytes` must stay until release_weights(). `name` names the program in errors. kRuntime if
  // ExecuTorch refuses the program.
  LoadedProgram(const void* bytes, size_t size, std::string name);
  ~LoadedProgram();
  LoadedProgram(const LoadedProgram&) = delete;
  LoadedProgram& operator=(const LoadedProgram&) = delete;

  const std::string& name() const { return name_; }
  uint64_t size() const { return size_; }  // bytes
  const executorch::runtime::Program& program() const { return *program_; }
  // Sizes of the method's planned buffers; kRuntime if the program does not have the method.
  std::vector<size_t> planned_sizes(const char* method) const;
  // From now on methods can run, but no methods can be loaded.
  void release_weights();
  // Methods are loaded from here now; `bytes` must stay until release_weights().
  // REQUIRES: it has the same contents as the constructor's.
  void restore_weights(const void* bytes);

 private:
  class Loader;
  std::string name_;
  uint64_t size_;
  std::unique_ptr<Loader> loader_;
  std::unique_ptr<executorch::runtime::Program> program_;
};

}  // namespace moe_mobile
