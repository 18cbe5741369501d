// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "base/sha256.h"

#include <gtest/gtest.h>

#include <random>
#include <string>

#include "base/expect_error.h"
#include "base/file.h"
#include "base/temporary_folder.h"

namespace moe_mobile {
namespace {

std::string hex(const std::string& text) { return to_hex(sha256(text.data(), text.size())); }

TEST(Sha256, MatchesThePublishedVectors) {
  EXPECT_EQ(hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(hex(std::string(1000000, 'a')),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256, HardwareEqualsPortable) {
  const detail::Sha256Compress hardware = detail::sha256_compress_hardware();
  if (hardware == nullptr) GTEST_SKIP() << "this CPU has no SHA instructions";
  std::mt19937 random(1);
  for (int round = 0; round < 200; ++round) {
    uint32_t a[8], b[8];
    for (int i = 0; i < 8; ++i) a[i] = b[i] = static_cast<uint32_t>(random());
    std::string data(64 * (1 + random() % 5), '\0');
    for (char& c : data) c = static_cast<char>(random());
    const auto* bytes = reinterpret_cast<const uint8_t*>(data.data());
    hardware(a, bytes, data.size() / 64);
    detail::sha256_compress_portable(b, bytes, data.size() / 64);
    for (int i = 0; i < 8; ++i) ASSERT_EQ(a[i], b[i]);
  }
}

TEST(Sha256, DoesNotDependOnHowTheMessageIsCut) {
  std::mt19937 random(2);
  for (size_t length = 0; length < 300; ++length) {
    std::string data(length, '\0');
    for (char& c : data) c = static_cast<char>(random());
    Sha256 pieces;
    for (size_t at = 0; at < length;) {
      const size_t take = std::min<size_t>(length - at, random() % 100);
      pieces.update(data.data() + at, take);
      at += take;
    }
    ASSERT_EQ(to_hex(pieces.digest()), hex(data)) << length;
  }
}

TEST(Sha256, ReadsFilesInPieces) {
  testing::TemporaryFolder folder;
  const std::string data = std::string(3 << 20, 'x') + "end";
  testing::write_file(folder.file("f"), "skip" + data);
  const UniqueFd fd = open_read(folder.file("f"));
  EXPECT_EQ(to_hex(sha256_file(fd.get(), 4, data.size(), "f")), hex(data));
  EXPECT_ERROR(sha256_file(fd.get(), 5, data.size(), "f"), ErrorCode::kBundleCorrupt, "f: ends");
}

TEST(ParseHex, TakesExactlyWhatToHexWrites) {
  const std::string text = hex("abc");
  Sha256Digest digest;
  ASSERT_TRUE(parse_hex(text, &digest));
  EXPECT_EQ(to_hex(digest), text);
  EXPECT_FALSE(parse_hex(text.substr(1), &digest));
  EXPECT_FALSE(parse_hex(text + "0", &digest));
  EXPECT_FALSE(parse_hex("B" + text.substr(1), &digest));
  EXPECT_FALSE(parse_hex("g" + text.substr(1), &digest));
}

}  // namespace
}  // namespace moe_mobile
