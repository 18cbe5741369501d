// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "decoder/embedding.h"

#include <cstring>

#include "base/error.h"

namespace moe_mobile {

EmbeddingTable::EmbeddingTable(const std::string& path, const EmbeddingSpec& spec,
                               uint32_t vocab_size, uint32_t hidden_size)
    : path_(path),
      fd_(open_read(path)),
      int8_(spec.int8),
      row_bytes_(spec.row_bytes),
      vocab_size_(vocab_size),
      hidden_size_(hidden_size),
      row_(spec.row_bytes) {
  const uint64_t expected_row = int8_ ? align_up(hidden_size, 4) + 4 : uint64_t{4} * hidden_size;
  if (row_bytes_ != expected_row || file_size(fd_.get(), path) != vocab_size * row_bytes_) {
    throw Error(ErrorCode::kBundleInvalid, path, "is not vocab_size rows long",
                "Copy or export the bundle again");
  }
}

void EmbeddingTable::row(uint32_t token, float* out) {
  if (token >= vocab_size_) {
    throw Error(ErrorCode::kUsage, Setting{"token_ids"},
                "token " + std::to_string(token) + " is outside the vocabulary of " +
                    std::to_string(vocab_size_),
                "Tokenize with the bundle's own tokenizer.");
  }
  read_exactly(fd_.get(), row_.data(), row_.size(), token * row_bytes_, path_);
  if (!int8_) {
    std::memcpy(out, row_.data(), row_.size());
    return;
  }
  float scale;
  std::memcpy(&scale, row_.data() + row_.size() - 4, 4);
  for (uint32_t i = 0; i < hidden_size_; ++i) {
    out[i] = static_cast<float>(static_cast<int8_t>(row_[i])) * scale;
  }
}

void EmbeddingTable::rows(Span<const uint32_t> tokens, float* out) {
  for (size_t i = 0; i < tokens.size(); ++i) row(tokens[i], out + i * hidden_size_);
}

}  // namespace moe_mobile
