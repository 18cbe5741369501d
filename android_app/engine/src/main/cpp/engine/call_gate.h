// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <functional>

#include "base/mutex.h"

namespace moe_mobile {

// Lets any thread change an object that one thread at a time uses. The change is made at once if no
// call runs. Otherwise the thread of that call makes it at the next point where the object may
// change, or at its end.
class CallGate {
 public:
  // REQUIRES: it does not throw, and does not use the gate.
  using Change = std::function<void()>;

  // A call runs while it lives. kUsage if another one runs: calls do not overlap.
  class Call {
   public:
    explicit Call(CallGate* gate) : gate_(gate) { gate_->begin(); }
    ~Call() { gate_->end(); }
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

   private:
    CallGate* const gate_;
  };

  // From any thread, also from a call. Never waits for a call. Replaces a change that still waits.
  void post(Change change) EXCLUDES(mutex_);
  // For the thread of the call: makes the waiting change, if any.
  void pass() EXCLUDES(mutex_) {
    if (waits_.load(std::memory_order_relaxed)) make_change();
  }

 private:
  void begin() EXCLUDES(mutex_);
  void end() EXCLUDES(mutex_);
  void make_change() EXCLUDES(mutex_);

  Mutex mutex_;
  bool in_call_ GUARDED_BY(mutex_) = false;
  Change change_ GUARDED_BY(mutex_);
  std::atomic<bool> waits_{false};  // whether there is a change_; without the lock only a hint
};

}  // namespace moe_mobile
