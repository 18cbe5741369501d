// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <memory>
#include <vector>

#include "bundle/bundle.h"
#include "engine/expert_places.h"
#include "executorch/method.h"

namespace moe_mobile {

// Places that load a whole program per expert: for delegates without packed weights, and as the
// baseline for slots. On a miss ExecuTorch loads the method after the same direct read (and XNNPACK
// packs its weights). Layers may have experts of different delegates.
class ProgramPlaces : public ExpertPlaces {
 public:
  // kIo if a shard is missing (prepare --consume deletes them).
  // All experts will be of this variant.
  ProgramPlaces(const Bundle& bundle, uint32_t variant, uint32_t count, PlannedArena* arena,
                bool allow_direct);

  uint32_t count() const override { return static_cast<uint32_t>(places_.size()); }
  void add(uint32_t) override { places_.emplace_back(); }
  void give_back(uint32_t place) override;
  ReadRequest read_request(const ExpertKey& key, uint32_t place) override;
  // Loads the method; the bytes are checked against their SHA-256 on an expert's first read.
  void arrived(const ExpertKey& key, uint32_t place) override;
  void run(uint32_t place, const float* x, uint32_t rows, float* y) override;

  bool direct() const;

 private:
  struct Place {
    std::unique_ptr<AlignedBuffer> staging;  // from request to arrival
    std::unique_ptr<LoadedProgram> program;
    std::unique_ptr<Method> method;
  };
  struct Shard {
    std::string path;
    UniqueFd fd;
    bool direct = false;
  };

  const Manifest& manifest_;
  const uint32_t variant_;
  PlannedArena* arena_;
  std::vector<Shard> shards_;  // by layer
  std::vector<bool> checked_;
  std::vector<Place> places_;
  std::vector<std::unique_ptr<AlignedBuffer>> idle_staging_;
};

}  // namespace moe_mobile
