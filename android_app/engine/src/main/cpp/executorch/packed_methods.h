// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "executorch/method.h"
#include "executorch/packed_layout.h"
#include "executorch/program.h"

namespace moe_mobile {

// Methods whose packed weights lie in memory the engine owns, so that exchanging the weights is one
// read.
//
// XNNPACK maps a method's packed file and keeps pointers into it. Here that file is sparse and
// holds only the index (nothing reads the weights while loading); then the mapping is replaced in
// place by anonymous memory. Creating is in two steps, so that the process's memory map is read
// once for many methods: add() all, then detach() once.
class PackedMethods {
 public:
  // `directory` takes short-lived files, of `weights + index` apparent size but sparse.
  explicit PackedMethods(std::string directory);
  ~PackedMethods();
  PackedMethods(const PackedMethods&) = delete;
  PackedMethods& operator=(const PackedMethods&) = delete;

  // Loads one more method and returns its number. `tail` is the index XNNPACK wrote for this very
  // program.
  size_t add(const LoadedProgram& program, const char* method, PlannedArena* arena,
             Span<const uint8_t> tail);
  // Replaces the mappings of all methods added since the last call by zeroed private memory, and
  // deletes the files. kRuntime if a method has not exactly one mapping of its file's length:
  // XNNPACK then packed its weights elsewhere, and would silently ignore ours.
  void detach();

  size_t size() const { return methods_.size(); }
  Method& method(size_t index) { return *methods_[index].method; }
  // Memory of the weights: weight_capacity() bytes, page aligned, a multiple of kBlobAlignment.
  uint8_t* weights(size_t index) { return methods_[index].weights; }
  uint64_t weight_capacity(size_t index) const { return methods_[index].capacity; }

 private:
  struct Entry {
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

// Raises this process's soft limit of open files to hold `methods` more (XNNPACK keeps one open per
// packed method). kBudget where the hard limit is too low.
void reserve_file_descriptors(size_t methods);

}  // namespace moe_mobile
