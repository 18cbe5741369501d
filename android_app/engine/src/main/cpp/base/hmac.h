// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include "base/sha256.h"

namespace moe_mobile {

// HMAC-SHA-256 (RFC 2104) with a key of 32 bytes: only who knows the key can make the digest.
class HmacSha256 {
 public:
  explicit HmacSha256(const Sha256Digest& key);
  void update(const void* data, size_t length) { inner_.update(data, length); }
  // Ends the message. The object must not be used afterwards.
  Sha256Digest digest();

 private:
  Sha256 inner_;
  Sha256 outer_;
};

}  // namespace moe_mobile
