// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "base/error.h"
#include "engine/engine.h"

namespace moe_mobile {

// A piece of work that takes one or several calls of an engine. One Engine::cancel() stops all of
// it.
class Cancellation {
 public:
  // The work begins.
  explicit Cancellation(const Engine* engine) : engine_(engine), since_(engine->cancels()) {}
  // kCancelled if the engine's work was cancelled since the work began.
  void check() const {
    if (engine_->cancels() != since_)
      throw Error(ErrorCode::kCancelled, "", "the work was cancelled");
  }

 private:
  const Engine* engine_;
  uint64_t since_;
};

}  // namespace moe_mobile
