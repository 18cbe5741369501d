// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

namespace moe_mobile {

using Sha256Digest = std::array<uint8_t, 32>;

// SHA-256 (FIPS 180-4), with the CPU's SHA instructions if it has them.
class Sha256 {
 public:
  Sha256();
  void update(const void* data, size_t length);
  // Ends the message. The object must not be used afterwards.
  Sha256Digest digest();

 private:
  std::array<uint32_t, 8> state_;
  std::array<uint8_t, 64> block_;
  uint64_t length_ = 0;
};

Sha256Digest sha256(const void* data, size_t length);

// Called as a file is read, with the bytes so far.
using Hashed = std::function<void(uint64_t bytes)>;

// Digest of `length` bytes from `offset` of an open file; kBundleCorrupt if the file ends before.
Sha256Digest sha256_file(int fd, uint64_t offset, uint64_t length, const std::string& path,
                         const Hashed& hashed = {});

// 64 lower-case hexadecimal digits.
std::string to_hex(const Sha256Digest& digest);
// False unless `text` is exactly 64 lower-case hexadecimal digits.
bool parse_hex(const std::string& text, Sha256Digest* digest);

namespace detail {
// Compresses `blocks` blocks of 64 bytes into the state. Exposed so that tests can compare the
// paths.
using Sha256Compress = void (*)(uint32_t* state, const uint8_t* data, size_t blocks);
void sha256_compress_portable(uint32_t* state, const uint8_t* data, size_t blocks);
// The version with the CPU's SHA instructions; nullptr if it has none.
Sha256Compress sha256_compress_hardware();
}  // namespace detail

}  // namespace moe_mobile
