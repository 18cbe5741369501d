// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/span.h"
#include "executorch/method.h"
#include "executorch/program.h"

namespace moe_mobile {

// Packed weights: a method's weights in the layout for this CPU, which the delegate makes when it
// loads the method. Packing takes most of the loading time. A delegate that implements
// PackedWeights lets the engine keep the packed bytes (the packed store) and exchange them under a
// loaded method (slots). Programs of other delegates are loaded without it, see Backend.

// One method's packed weights, and the delegate's own description of them. Only the delegate can
// read the index; the engine stores it and hands it back.
struct PackedImage {
  AlignedBuffer weights;
  std::vector<uint8_t> index;
};

// Loaded methods whose packed weights are in memory that the engine may overwrite between two runs.
// Methods are made in two steps, so that the delegate can prepare the memory of many at once: add()
// all of them, then detach() once.
class ExchangeableMethods {
 public:
  virtual ~ExchangeableMethods() = default;
  // Loads one more method and returns its number. `index` must come from pack() of the same
  // program and method.
  virtual size_t add(const LoadedProgram& program, const char* method, PlannedArena* arena,
                     Span<const uint8_t> index) = 0;
  // Gives each method that was added since the last call its memory, zeroed. kRuntime if the
  // delegate would not use that memory; kBudget if there is not enough memory.
  virtual void detach() = 0;

  virtual size_t size() const = 0;
  virtual Method& method(size_t number) = 0;
  // The memory of a method's weights: weight_capacity() bytes, page aligned, a multiple of
  // kBlobAlignment. REQUIRES: detach() was called since the method was added.
  virtual uint8_t* weights(size_t number) = 0;
  virtual uint64_t weight_capacity(size_t number) const = 0;
  // Gives that memory back to the system: it is zero until weights are written there again.
  virtual void release_weights(size_t number) = 0;
};

class PackedWeights {
 public:
  virtual ~PackedWeights() = default;
  // Differs if anything does that packed weights depend on: weights packed under another key are
  // not used. Usable as a folder name.
  virtual std::string layout_key() const = 0;
  // Loads the method once to pack its weights, and calls `loaded` with it. `scratch_path` is a file
  // that the delegate may create; it is deleted at the end. Several threads may pack at the same
  // time, each with an arena and a scratch file of its own. kRuntime if the delegate fails;
  // kDiskFull and others for failures of the file system.
  using Loaded = std::function<void(Method*)>;
  virtual PackedImage pack(const LoadedProgram& program, const char* method, PlannedArena* arena,
                           const std::string& scratch_path, const Loaded& loaded) const = 0;
  // Number of bytes of the weights that the index describes. kBundleCorrupt, naming `file`, for a
  // broken index.
  virtual uint64_t weight_bytes(Span<const uint8_t> index, const std::string& file) const = 0;
  // Whether a method that was added with index `a` can use weights with index `b`. kBundleCorrupt,
  // naming `file`, for a broken index.
  virtual bool same_layout(Span<const uint8_t> a, Span<const uint8_t> b,
                           const std::string& file) const = 0;
  // Makes an empty group for methods, and sees to it that the process may load `count` more.
  // `directory`: a writable folder for short-lived files. kBudget if the process may not open as
  // many files as the methods need.
  virtual std::unique_ptr<ExchangeableMethods> make_methods(const std::string& directory,
                                                            size_t count) const = 0;
};

}  // namespace moe_mobile
