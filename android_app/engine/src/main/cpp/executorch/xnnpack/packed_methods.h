// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "executorch/packed_weights.h"
#include "executorch/xnnpack/slot_name.h"

namespace moe_mobile {

// XNNPACK maps a method's packed file and keeps pointers into the mapping. So add() gives it a
// sparse file that holds only the index: nothing reads the weights while a method is loaded. Then
// detach() replaces the mapping in place by anonymous memory and deletes the file. It finds the
// mappings in the process's memory map, which it reads once for all methods.
class PackedMethods : public ExchangeableMethods {
 public:
  // XNNPACK keeps one file open per method, so this raises the process's soft limit of open files
  // to hold `count` more. kBudget if the hard limit is too low.
  PackedMethods(std::string directory, size_t count);
  ~PackedMethods() override;
  PackedMethods(const PackedMethods&) = delete;
  PackedMethods& operator=(const PackedMethods&) = delete;

  size_t add(const LoadedProgram& program, const char* method, PlannedArena* arena,
             Span<const uint8_t> index) override;
  // kRuntime unless each method has exactly one mapping, of exactly its file's length: otherwise
  // XNNPACK has packed the weights elsewhere and silently ignores ours.
  void detach() override;

  size_t size() const override { return methods_.size(); }
  Method& method(size_t number) override { return *methods_[number].method; }
  uint8_t* weights(size_t number) override { return methods_[number].weights; }
  uint64_t weight_capacity(size_t number) const override { return methods_[number].capacity; }
  void release_weights(size_t number) override;

 private:
  struct Entry {
    SlotName name;  // destroyed after the method
    std::unique_ptr<Method> method;
    std::string path;
    uint64_t file_bytes = 0;
    uint64_t capacity = 0;
    uint8_t* weights = nullptr;
  };
  void remove_files();

  std::string directory_;
  std::vector<Entry> methods_;
  size_t detached_ = 0;
};

}  // namespace moe_mobile
