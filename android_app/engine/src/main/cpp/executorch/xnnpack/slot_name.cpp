// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#include "executorch/xnnpack/slot_name.h"

#include <unistd.h>

#include <set>

#include "base/mutex.h"

namespace moe_mobile {
namespace {

class Numbers {
 public:
  uint64_t take() EXCLUDES(mutex_) {
    const MutexLock lock(&mutex_);
    if (free_.empty()) return next_++;
    return free_.extract(free_.begin()).value();
  }
  void give_back(uint64_t number) EXCLUDES(mutex_) {
    const MutexLock lock(&mutex_);
    free_.insert(number);
  }

 private:
  Mutex mutex_;
  uint64_t next_ GUARDED_BY(mutex_) = 0;
  std::set<uint64_t> free_ GUARDED_BY(mutex_);
};

Numbers& numbers() {
  static Numbers& all = *new Numbers;  // slots may outlive other static objects
  return all;
}

}  // namespace

SlotName::SlotName() : number_(numbers().take()) {}

SlotName::~SlotName() {
  if (number_ != kNone) numbers().give_back(number_);
}

std::string SlotName::text() const {
  return "moe-slot-" + std::to_string(getpid()) + "-" + std::to_string(number_) + ".bin";
}

}  // namespace moe_mobile
