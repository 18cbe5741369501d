// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "base/sha256.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/file.h"

namespace moe_mobile {
namespace {

constexpr size_t kFileChunk = 1u << 20;

detail::Sha256Compress compress() {
  static const detail::Sha256Compress chosen = detail::sha256_compress_hardware() != nullptr
                                                   ? detail::sha256_compress_hardware()
                                                   : detail::sha256_compress_portable;
  return chosen;
}

}  // namespace

Sha256::Sha256()
    : state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
             0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19} {}

void Sha256::update(const void* data, size_t length) {
  const auto* in = static_cast<const uint8_t*>(data);
  const size_t filled = length_ % 64;
  length_ += length;
  if (filled > 0) {
    const size_t taken = std::min(length, 64 - filled);
    if (taken > 0) std::memcpy(block_.data() + filled, in, taken);
    if (filled + taken < 64) return;
    compress()(state_.data(), block_.data(), 1);
    in += taken;
    length -= taken;
  }
  if (length >= 64) compress()(state_.data(), in, length / 64);
  const size_t rest = length % 64;
  if (rest > 0) std::memcpy(block_.data(), in + (length - rest), rest);
}

Sha256Digest Sha256::digest() {
  const uint64_t bits = length_ * 8;
  uint8_t padding[72] = {0x80};
  const size_t zeros = (119 - length_ % 64) % 64;  // to 56 modulo 64, after the 0x80
  for (int i = 0; i < 8; ++i) padding[1 + zeros + i] = static_cast<uint8_t>(bits >> (56 - 8 * i));
  update(padding, 1 + zeros + 8);
  Sha256Digest digest;
  for (int i = 0; i < 32; ++i) {
    digest[i] = static_cast<uint8_t>(state_[i / 4] >> (24 - 8 * (i % 4)));
  }
  return digest;
}

Sha256Digest sha256(const void* data, size_t length) {
  Sha256 hash;
  hash.update(data, length);
  return hash.digest();
}

Sha256Digest sha256_file(int fd, uint64_t offset, uint64_t length, const std::string& path,
                         const Hashed& hashed) {
  Sha256 hash;
  std::vector<uint8_t> chunk(std::min<uint64_t>(length, kFileChunk));
  for (uint64_t done = 0; done < length;) {
    const size_t bytes = std::min<uint64_t>(length - done, chunk.size());
    read_exactly(fd, chunk.data(), bytes, offset + done, path);
    hash.update(chunk.data(), bytes);
    done += bytes;
    if (hashed) hashed(done);
  }
  return hash.digest();
}

std::string to_hex(const Sha256Digest& digest) {
  std::string text;
  for (const uint8_t byte : digest) {
    text += "0123456789abcdef"[byte >> 4];
    text += "0123456789abcdef"[byte & 15];
  }
  return text;
}

bool parse_hex(const std::string& text, Sha256Digest* digest) {
  if (text.size() != 64) return false;
  for (size_t i = 0; i < 64; ++i) {
    const char c = text[i];
    int value;
    if (c >= '0' && c <= '9') {
      value = c - '0';
    } else if (c >= 'a' && c <= 'f') {
      value = c - 'a' + 10;
    } else {
      return false;
    }
    uint8_t& byte = (*digest)[i / 2];
    byte = static_cast<uint8_t>(i % 2 == 0 ? value << 4 : byte | value);
  }
  return true;
}

}  // namespace moe_mobile
