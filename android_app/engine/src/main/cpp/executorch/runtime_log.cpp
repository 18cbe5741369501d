// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#include "executorch/runtime_log.h"

#include <executorch/runtime/platform/platform.h>
#include <executorch/runtime/platform/runtime.h>

#include <deque>

#include "base/mutex.h"

namespace moe_mobile {
namespace {

constexpr size_t kMaxKeptErrors = 4;
Mutex mutex;
std::deque<std::string>& errors() REQUIRES(mutex) {
  static std::deque<std::string> kept;
  return kept;
}

void emit(et_timestamp_t, et_pal_log_level_t level, const char*, const char*, size_t,
          const char* message, size_t length) {
  if (level != kError && level != kFatal) return;
  const MutexLock lock(&mutex);
  errors().emplace_back(message, length);
  if (errors().size() > kMaxKeptErrors) errors().pop_front();
}

}  // namespace

void init_executorch() {
  static const bool done = [] {
    executorch::runtime::register_pal(executorch::runtime::PalImpl::create(emit, __FILE__));
    executorch::runtime::runtime_init();
    return true;
  }();
  (void)done;
}

std::string take_executorch_errors() {
  const MutexLock lock(&mutex);
  std::string joined;
  for (const std::string& error : errors()) joined += (joined.empty() ? "" : "; ") + error;
  errors().clear();
  return joined;
}

}  // namespace moe_mobile
