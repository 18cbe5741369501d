// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "base/hmac.h"

#include <array>

namespace moe_mobile {
namespace {

// The key, padded with zeros to one block of SHA-256.
std::array<uint8_t, 64> padded(const Sha256Digest& key, uint8_t pad) {
  std::array<uint8_t, 64> block;
  for (size_t i = 0; i < block.size(); ++i)
    block[i] = static_cast<uint8_t>((i < key.size() ? key[i] : 0) ^ pad);
  return block;
}

}  // namespace

HmacSha256::HmacSha256(const Sha256Digest& key) {
  inner_.update(padded(key, 0x36).data(), 64);
  outer_.update(padded(key, 0x5c).data(), 64);
}

Sha256Digest HmacSha256::digest() {
  const Sha256Digest message = inner_.digest();
  outer_.update(message.data(), message.size());
  return outer_.digest();
}

}  // namespace moe_mobile
