// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "base/hmac.h"

#include <gtest/gtest.h>

#include <string>

namespace moe_mobile {
namespace {

std::string hmac(const std::string& key, const std::string& message) {
  Sha256Digest padded{};  // a shorter key is padded with zeros
  std::copy(key.begin(), key.end(), padded.begin());
  HmacSha256 hmac(padded);
  for (const char c : message) hmac.update(&c, 1);
  return to_hex(hmac.digest());
}

// RFC 4231, test cases 1, 2 and 3.
TEST(Hmac, GivesThePublishedDigests) {
  EXPECT_EQ(hmac(std::string(20, '\x0b'), "Hi There"),
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
  EXPECT_EQ(hmac("Jefe", "what do ya want for nothing?"),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
  EXPECT_EQ(hmac(std::string(20, '\xaa'), std::string(50, '\xdd')),
            "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe");
}

}  // namespace
}  // namespace moe_mobile
