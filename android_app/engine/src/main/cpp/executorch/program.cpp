// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#include "executorch/program.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "executorch/runtime_log.h"

namespace moe_mobile {

namespace et = executorch::runtime;

et::HierarchicalAllocator* PlannedArena::fit(const std::vector<size_t>& sizes) {
  bool fits = !generations_.empty() && sizes.size() <= sizes_.size();
  for (size_t i = 0; fits && i < sizes.size(); ++i) fits = sizes[i] <= sizes_[i];
  if (!fits) {
    if (sizes_.size() < sizes.size()) sizes_.resize(sizes.size(), 0);
    for (size_t i = 0; i < sizes.size(); ++i) sizes_[i] = std::max(sizes_[i], sizes[i]);
    auto next = std::make_unique<Generation>();
    for (size_t size : sizes_) next->buffers.emplace_back(size);
    for (size_t i = 0; i < sizes_.size(); ++i)
      next->spans.emplace_back(next->buffers[i].data(), sizes_[i]);
    next->allocator = std::make_unique<et::HierarchicalAllocator>(
        et::Span<et::Span<uint8_t>>(next->spans.data(), next->spans.size()));
    generations_.push_back(std::move(next));
  }
  return generations_.back()->allocator.get();
}

// Serves a program from memory. Parts loaded while the program is parsed (flatbuffer, constants)
// are copied, since execution reads them. Weights are loaded later, without a copy.
class LoadedProgram::Loader : public et::DataLoader {
 public:
  Loader(const void* bytes, size_t size)
      : bytes_(static_cast<const uint8_t*>(bytes)), size_(size) {}

  et::Result<et::FreeableBuffer> load(size_t offset, size_t size,
                                      const SegmentInfo&) const override {
    if (bytes_ == nullptr || offset > size_ || size > size_ - offset)
      return et::Error::InvalidArgument;
    if (parsed_) return et::FreeableBuffer(bytes_ + offset, size, nullptr);
    copies_.emplace_back(size);
    if (size > 0) std::memcpy(copies_.back().data(), bytes_ + offset, size);
    return et::FreeableBuffer(copies_.back().data(), size, nullptr);
  }
  et::Error load_into(size_t offset, size_t size, const SegmentInfo&, void* buffer) const override {
    if (bytes_ == nullptr || offset > size_ || size > size_ - offset)
      return et::Error::InvalidArgument;
    std::memcpy(buffer, bytes_ + offset, size);
    return et::Error::Ok;
  }
  et::Result<size_t> size() const override { return size_; }

  void set_parsed() { parsed_ = true; }
  void release() { bytes_ = nullptr; }
  void restore(const void* bytes) { bytes_ = static_cast<const uint8_t*>(bytes); }

 private:
  const uint8_t* bytes_;
  size_t size_;
  bool parsed_ = false;
  mutable std::vector<AlignedBuffer> copies_;
};

LoadedProgram::LoadedProgram(const void* bytes, size_t size, std::string name)
    : name_(std::move(name)), size_(size), loader_(std::make_unique<Loader>(bytes, size)) {
  init_executorch();
  auto program = et::Program::load(loader_.get(), et::Program::Verification::InternalConsistency);
  if (!program.ok()) {
    const std::string log = take_executorch_errors();
    throw Error(
        ErrorCode::kRuntime, name_,
        "ExecuTorch cannot read this program" + (log.empty() ? "" : ": " + log),
        "Export the model again with the ExecuTorch version that moe-mobile was built with.");
  }
  program_ = std::make_unique<et::Program>(std::move(program.get()));
  loader_->set_parsed();
}

LoadedProgram::~LoadedProgram() = default;

std::vector<size_t> LoadedProgram::planned_sizes(const char* method) const {
  auto meta = program_->method_meta(method);
  if (!meta.ok())
    throw Error(ErrorCode::kRuntime, name_, std::string("the program has no method ") + method,
                "Export the model again.");
  std::vector<size_t> sizes;
  for (size_t i = 0; i < meta->num_memory_planned_buffers(); ++i) {
    auto size = meta->memory_planned_buffer_size(i);
    if (!size.ok() || size.get() < 0)
      throw Error(ErrorCode::kRuntime, name_, "the memory plan of the program is broken");
    sizes.push_back(static_cast<size_t>(size.get()));
  }
  return sizes;
}

void LoadedProgram::release_weights() { loader_->release(); }

void LoadedProgram::restore_weights(const void* bytes) { loader_->restore(bytes); }

}  // namespace moe_mobile
