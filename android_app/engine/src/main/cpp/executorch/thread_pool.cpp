// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#include "executorch/thread_pool.h"

#include <executorch/runtime/core/function_ref.h>

#include <algorithm>
#include <memory>

#include "base/error.h"
#include "base/mutex.h"
#include "executorch/runtime_log.h"

// The wheel exports the pool but does not ship its header; these are the members that we use.
namespace executorch::extension::threadpool {
class ThreadPool {
 public:
  size_t get_thread_count() const;
  bool _unsafe_reset_threadpool(uint32_t num_threads);
  void run(runtime::FunctionRef<void(size_t)> fn, size_t range);
};
ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool

namespace moe_mobile {
namespace {

constexpr unsigned kMaxThreads = 256;
Mutex lease_mutex;
unsigned leases GUARDED_BY(lease_mutex) = 0;

}  // namespace

ThreadPoolLease::ThreadPoolLease(unsigned threads) {
  if (threads > kMaxThreads)
    throw Error(ErrorCode::kUsage, Setting{"threads"},
                std::to_string(threads) + " threads are more than the " +
                    std::to_string(kMaxThreads) + " supported",
                "Give a number from 1 to the number of cores.");
  init_executorch();
  const MutexLock lock(&lease_mutex);
  auto* pool = executorch::extension::threadpool::get_threadpool();
  if (pool == nullptr)
    throw Error(ErrorCode::kRuntime, "", "ExecuTorch could not create its thread pool");
  const auto current = static_cast<unsigned>(pool->get_thread_count());
  static const unsigned own_choice = current;  // before any change
  if (threads == 0 && leases == 0) threads = own_choice;
  if (threads != 0 && threads != current) {
    if (leases > 0)
      throw Error(
          ErrorCode::kUsage, Setting{"threads"},
          "another engine of this process runs with " + std::to_string(current) + " threads",
          "Close it first, or use the same number of threads.");
    pool->_unsafe_reset_threadpool(threads);
  }
  threads_ = static_cast<unsigned>(pool->get_thread_count());
  ++leases;
}

ThreadPoolLease::~ThreadPoolLease() {
  const MutexLock lock(&lease_mutex);
  --leases;
}

ParallelFor ThreadPoolLease::parallel_for() const {
  if (threads_ <= 1) return serial_for;
  const unsigned threads = threads_;
  return [threads](size_t n, const std::function<void(size_t, size_t)>& body) {
    const size_t parts = std::min<size_t>(n, threads);
    if (parts <= 1) return serial_for(n, body);
    executorch::extension::threadpool::get_threadpool()->run(
        [&](size_t part) { body(n * part / parts, n * (part + 1) / parts); }, parts);
  };
}

}  // namespace moe_mobile
