// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "engine/call_gate.h"

#include <utility>

#include "base/error.h"

namespace moe_mobile {

void CallGate::post(Change change) {
  const MutexLock lock(&mutex_);
  if (in_call_) {
    change_ = std::move(change);
    waits_.store(true, std::memory_order_relaxed);
  } else {
    change();  // a call that begins now waits
  }
}

void CallGate::begin() {
  const MutexLock lock(&mutex_);
  if (in_call_)
    throw Error(ErrorCode::kUsage, "", "another call of this engine runs",
                "Wait for its end, or open an engine for each thread.");
  in_call_ = true;
}

void CallGate::end() {
  for (;;) {
    {
      const MutexLock lock(&mutex_);
      if (!change_) {
        in_call_ = false;
        return;
      }
    }
    make_change();
  }
}

// The lock is not held during the change, so post() never waits for a call.
void CallGate::make_change() {
  Change change;
  {
    const MutexLock lock(&mutex_);
    change = std::exchange(change_, nullptr);
    waits_.store(false, std::memory_order_relaxed);
  }
  if (change) change();
}

}  // namespace moe_mobile
