// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include "base/parallel_for.h"

namespace moe_mobile {

// ExecuTorch has one thread pool per process, and XNNPACK binds it when a method is loaded: its
// size cannot change while any method lives. A lease fixes the size; engines of one process must
// agree.
class ThreadPoolLease {
 public:
  // `threads` 0: keep the pool's own choice, or the size other leases fixed. kUsage if another
  // lease fixed another size.
  explicit ThreadPoolLease(unsigned threads);
  ThreadPoolLease(const ThreadPoolLease&) = delete;
  ThreadPoolLease& operator=(const ThreadPoolLease&) = delete;
  ~ThreadPoolLease();

  unsigned threads() const { return threads_; }
  // Runs on the pool. Valid while the lease lives.
  ParallelFor parallel_for() const;

 private:
  unsigned threads_ = 0;
};

}  // namespace moe_mobile
