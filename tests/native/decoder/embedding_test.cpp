// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "decoder/embedding.h"

#include <gtest/gtest.h>

#include <cstring>

#include "base/expect_error.h"
#include "base/temporary_folder.h"

namespace moe_mobile {
namespace {

using testing::TemporaryFolder;

EmbeddingSpec spec(bool int8, uint64_t row_bytes) {
  EmbeddingSpec s;
  s.int8 = int8;
  s.row_bytes = row_bytes;
  return s;
}

TEST(EmbeddingTable, ReadsFloatRows) {
  TemporaryFolder folder;
  const std::vector<float> values{0.5f, -1, 2, 3, 4, 5e-30f};
  std::string bytes(24, '\0');
  std::memcpy(bytes.data(), values.data(), 24);
  testing::write_file(folder.file("e"), bytes);
  EmbeddingTable table(folder.file("e"), spec(false, 8), 3, 2);
  std::vector<float> out(4);
  table.rows(std::vector<uint32_t>{2, 0}, out.data());
  EXPECT_EQ(out, (std::vector<float>{4, 5e-30f, 0.5f, -1}));
}

TEST(EmbeddingTable, ReadsScaledRows) {
  TemporaryFolder folder;
  std::string bytes;
  for (int token = 0; token < 4; ++token) {
    for (const int value : {127, -128, 0, -1, token}) bytes += static_cast<char>(value);
    bytes.append(3, '\0');
    const float scale = 0.25f * static_cast<float>(token + 1);
    bytes.append(reinterpret_cast<const char*>(&scale), 4);
  }
  testing::write_file(folder.file("e"), bytes);
  EmbeddingTable table(folder.file("e"), spec(true, 12), 4, 5);
  std::vector<float> out(5);
  table.row(3, out.data());
  EXPECT_EQ(out, (std::vector<float>{127, -128, 0, -1, 3}));
  table.row(0, out.data());
  EXPECT_EQ(out, (std::vector<float>{31.75f, -32, 0, -0.25f, 0}));
}

TEST(EmbeddingTable, RefusesWrongLengthsAndTokens) {
  TemporaryFolder folder;
  testing::write_file(folder.file("e"), std::string(36, '\0'));
  const std::string path = folder.file("e");
  EmbeddingTable table(path, spec(true, 12), 3, 5);
  std::vector<float> out(5);
  EXPECT_ERROR(table.row(3, out.data()), ErrorCode::kUsage, "3 is outside the vocabulary of 3");
  EXPECT_ERROR(table.row(0xffffffff, out.data()), ErrorCode::kUsage, "vocabulary");
  EXPECT_ERROR(EmbeddingTable(path, spec(true, 12), 4, 5), ErrorCode::kBundleInvalid, path);
  EXPECT_ERROR(EmbeddingTable(path, spec(true, 9), 4, 5), ErrorCode::kBundleInvalid, path);
  EXPECT_ERROR(EmbeddingTable(path, spec(false, 12), 3, 4), ErrorCode::kBundleInvalid, path);
  EXPECT_ERROR(EmbeddingTable(folder.file("none"), spec(true, 12), 3, 5), ErrorCode::kIo, "none");
  testing::write_file(path, std::string(20, '\0'));  // truncated after opening
  EXPECT_ERROR(table.row(2, out.data()), ErrorCode::kBundleCorrupt, path);
}

}  // namespace
}  // namespace moe_mobile
