// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <exception>
#include <functional>
#include <map>
#include <thread>
#include <utility>
#include <vector>

#include "base/mutex.h"

namespace moe_mobile {

// Makes items 0 to count - 1 on several threads, and takes them in their order on the caller's.
template <typename Item>
class MakeInOrder {
 public:
  // `make(worker, i)` runs on thread `worker`; `take(i, item)` on the caller's. At most two items a
  // worker are made and not yet taken. The first exception of either ends all and is thrown.
  static void run(size_t count, unsigned workers,
                  const std::function<Item(unsigned worker, size_t i)>& make,
                  const std::function<void(size_t i, Item item)>& take) {
    if (workers > count) workers = static_cast<unsigned>(count);
    if (workers <= 1) {
      for (size_t i = 0; i < count; ++i) take(i, make(0, i));
      return;
    }
    MakeInOrder all(count, 2 * size_t{workers}, make);
    std::vector<std::thread> threads;
    const auto end = [&] {
      all.stop();
      for (std::thread& thread : threads) thread.join();
    };
    try {
      for (unsigned worker = 0; worker < workers; ++worker)
        threads.emplace_back([&all, worker] { all.work(worker); });
      for (size_t i = 0; i < count; ++i) take(i, all.wait_for(i));
    } catch (...) {
      end();
      throw;
    }
    end();
  }

 private:
  MakeInOrder(size_t count, size_t ahead, const std::function<Item(unsigned, size_t)>& make)
      : count_(count), ahead_(ahead), make_(make) {}

  void work(unsigned worker) EXCLUDES(mutex_) {
    for (;;) {
      size_t i;
      {
        const MutexLock lock(&mutex_);
        while (!stopped_ && next_ < count_ && next_ >= taken_ + ahead_) changed_.wait(&mutex_);
        if (stopped_ || next_ == count_) return;
        i = next_++;
      }
      try {
        Item item = make_(worker, i);
        const MutexLock lock(&mutex_);
        made_.emplace(i, std::move(item));
      } catch (...) {
        const MutexLock lock(&mutex_);
        if (!failure_) failure_ = std::current_exception();
        stopped_ = true;
      }
      changed_.notify_all();
    }
  }

  Item wait_for(size_t i) EXCLUDES(mutex_) {
    const MutexLock lock(&mutex_);
    while (made_.count(i) == 0) {
      if (failure_) std::rethrow_exception(failure_);
      changed_.wait(&mutex_);
    }
    Item item = std::move(made_.at(i));
    made_.erase(i);
    taken_ = i + 1;
    changed_.notify_all();
    return item;
  }

  void stop() EXCLUDES(mutex_) {
    const MutexLock lock(&mutex_);
    stopped_ = true;
    changed_.notify_all();
  }

  const size_t count_;
  const size_t ahead_;
  const std::function<Item(unsigned, size_t)>& make_;
  Mutex mutex_;
  CondVar changed_;
  size_t next_ GUARDED_BY(mutex_) = 0;
  size_t taken_ GUARDED_BY(mutex_) = 0;
  bool stopped_ GUARDED_BY(mutex_) = false;
  std::exception_ptr failure_ GUARDED_BY(mutex_);
  std::map<size_t, Item> made_ GUARDED_BY(mutex_);
};

}  // namespace moe_mobile
