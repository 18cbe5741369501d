// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <cstdint>

#include "cache/expert_key.h"
#include "cache/read_lanes.h"

namespace moe_mobile {

// A number of places in memory, each able to hold and run any one expert of one variant (the
// precision of its weights). Residencies differ in what a place holds: packed weights under a live
// method (slots), or a whole loaded program (programs).
class ExpertPlaces {
 public:
  virtual ~ExpertPlaces() = default;
  virtual uint32_t count() const = 0;
  // Adds between 1 and `most` places. Their memory is taken when they are first used. kRuntime if
  // they cannot run experts; kBudget if there is not enough memory or the limit of open files is
  // too low.
  virtual void add(uint32_t most) = 0;
  // Gives the memory of a place back to the system; its expert is gone.
  virtual void give_back(uint32_t place) = 0;
  // The read that brings the expert into the place. The caller sets its tag.
  virtual ReadRequest read_request(const ExpertKey& key, uint32_t place) = 0;
  // To be called after that read succeeded, before run().
  virtual void arrived(const ExpertKey& key, uint32_t place) = 0;
  // y [rows, hidden] = expert in `place` applied to x [rows, hidden].
  virtual void run(uint32_t place, const float* x, uint32_t rows, float* y) = 0;
};

}  // namespace moe_mobile
