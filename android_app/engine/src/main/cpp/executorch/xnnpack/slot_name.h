// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <cstdint>
#include <string>
#include <utility>

namespace moe_mobile {

// The name of a slot's file, which no other slot of this process has at the same time. XNNPACK
// keeps one weights cache for each path, and about 1 KiB of it for good: names are used again, so
// that opening an engine many times does not add up.
class SlotName {
 public:
  // The first name that is free.
  SlotName();
  // Gives it back. REQUIRES: the method that was loaded from that file is gone.
  ~SlotName();
  SlotName(SlotName&& other) noexcept : number_(std::exchange(other.number_, kNone)) {}
  SlotName& operator=(SlotName&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }

  std::string text() const;

 private:
  static constexpr uint64_t kNone = UINT64_MAX;
  uint64_t number_;
};

}  // namespace moe_mobile
