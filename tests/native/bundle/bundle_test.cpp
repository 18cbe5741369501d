// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "bundle/bundle.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <filesystem>

#include "base/expect_error.h"
#include "bundle/sample_bundle.h"

namespace moe_mobile {
namespace {

namespace fs = std::filesystem;
using testing::read_file;
using testing::SampleBundle;
using testing::write_file;

std::string text_of(const AlignedBuffer& buffer) {
  return std::string(reinterpret_cast<const char*>(buffer.data()), buffer.size());
}

void flip_byte(const std::string& path, size_t at) {
  std::string bytes = read_file(path);
  bytes.at(at) = static_cast<char>(bytes[at] ^ 1);
  write_file(path, bytes);
}

TEST(Bundle, OpensAndReadsVerifiedPrograms) {
  SampleBundle sample;
  const Bundle bundle = Bundle::open(sample.path());
  EXPECT_TRUE(bundle.has_shard(0, 0));
  EXPECT_FALSE(bundle.has_shard(1, 0));
  EXPECT_TRUE(bundle.has_shard(2, 0));
  for (int expert = 0; expert < SampleBundle::kExperts; ++expert) {
    EXPECT_EQ(text_of(bundle.read_program({2, static_cast<uint32_t>(expert)})),
              SampleBundle::program(2, expert));
  }
  EXPECT_EQ(text_of(bundle.read_verified(bundle.manifest().head)), "head program");
  for (const FileRef& file : bundle.manifest().files) bundle.verify_file(file);
  bundle.verify_file(bundle.manifest().layers[0].experts->shard);
}

TEST(Bundle, DetectsAFlippedBitInEveryFile) {
  SampleBundle sample;
  const Bundle bundle = Bundle::open(sample.path());
  const Manifest& m = bundle.manifest();
  for (const FileRef* file :
       std::initializer_list<const FileRef*>{&m.embedding.file, &m.head, &m.layers[1].dense,
                                             &m.files[0], &m.layers[0].experts->shard}) {
    flip_byte(bundle.path(*file), file->bytes / 2);
    EXPECT_ERROR(bundle.verify_file(*file), ErrorCode::kBundleCorrupt, bundle.path(*file));
    EXPECT_ERROR(bundle.read_verified(*file), ErrorCode::kBundleCorrupt, "SHA-256");
    flip_byte(bundle.path(*file), file->bytes / 2);
    bundle.verify_file(*file);
  }
  flip_byte(sample.file("experts/layer-00.shard"), 2 * kBlobAlignment + 5);
  bundle.read_program({0, 1});
  EXPECT_ERROR(bundle.read_program({0, 2}), ErrorCode::kBundleCorrupt, "expert 2");
}

TEST(Bundle, DetectsSwappedExpertsAndShards) {
  SampleBundle sample;
  const Bundle bundle = Bundle::open(sample.path());
  const std::string a = sample.file("experts/layer-00.shard");
  const std::string b = sample.file("experts/layer-02.shard");
  std::string shard = read_file(a);
  std::swap_ranges(shard.begin(), shard.begin() + 16384, shard.begin() + 16384);
  write_file(a, shard);
  EXPECT_ERROR(bundle.read_program({0, 0}), ErrorCode::kBundleCorrupt, a);
  fs::copy_file(a, b, fs::copy_options::overwrite_existing);
  EXPECT_ERROR(bundle.read_program({2, 3}), ErrorCode::kBundleCorrupt, b);
}

TEST(Bundle, MissingShardsAreAllowedOtherFilesAreNot) {
  SampleBundle sample;
  fs::remove(sample.file("experts/layer-00.shard"));
  const Bundle bundle = Bundle::open(sample.path());
  EXPECT_FALSE(bundle.has_shard(0, 0));
  EXPECT_ERROR(bundle.read_program({0, 1}), ErrorCode::kIo, "layer-00.shard");
  fs::remove_all(sample.file("experts"));
  EXPECT_FALSE(Bundle::open(sample.path()).has_shard(2, 0));
  for (const char* name :
       {"dense/layer-02.pte", "dense/head.pte", "embedding.bin", "config.json"}) {
    SampleBundle other;
    fs::remove(other.file(name));
    EXPECT_ERROR(Bundle::open(other.path()), ErrorCode::kBundleInvalid, other.file(name));
  }
}

TEST(Bundle, ChecksLengthsAndKindsOnOpening) {
  for (const char* name :
       {"dense/layer-02.pte", "embedding.bin", "experts/layer-02.shard", "empty.txt"}) {
    SampleBundle sample;
    write_file(sample.file(name), read_file(sample.file(name)) + "x");
    EXPECT_ERROR(Bundle::open(sample.path()), ErrorCode::kBundleInvalid, sample.file(name));
  }
  SampleBundle linked;
  fs::rename(linked.file("embedding.bin"), linked.file("elsewhere.bin"));
  fs::create_symlink("elsewhere.bin", linked.file("embedding.bin"));
  EXPECT_ERROR(Bundle::open(linked.path()), ErrorCode::kBundleInvalid, "symbolic link");
  SampleBundle folder_link;
  fs::rename(folder_link.file("experts"), folder_link.file("elsewhere"));
  fs::create_directory_symlink("elsewhere", folder_link.file("experts"));
  EXPECT_ERROR(Bundle::open(folder_link.path()), ErrorCode::kBundleInvalid, "not a folder");
  SampleBundle pipe;
  fs::remove(pipe.file("config.json"));
  ASSERT_EQ(::mkfifo(pipe.file("config.json").c_str(), 0600), 0);
  EXPECT_ERROR(Bundle::open(pipe.path()), ErrorCode::kBundleInvalid, "not a regular file");
}

TEST(Bundle, RefusesFoldersThatAreNotBundles) {
  testing::TemporaryFolder folder;
  EXPECT_ERROR(Bundle::open(folder.file("none")), ErrorCode::kBundleInvalid, "moe-mobile export");
  EXPECT_ERROR(Bundle::open(folder.path()), ErrorCode::kBundleInvalid, "bundle.json");
  write_file(folder.file("file"), "x");
  EXPECT_ERROR(Bundle::open(folder.file("file")), ErrorCode::kBundleInvalid, "not a folder");
  SampleBundle linked;
  fs::rename(linked.file("bundle.json"), linked.file("other.json"));
  fs::create_symlink("other.json", linked.file("bundle.json"));
  EXPECT_ERROR(Bundle::open(linked.path()), ErrorCode::kBundleInvalid, "symbolic link");
}

uint64_t peak_memory() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return uint64_t(usage.ru_maxrss) * 1024;
}

// A sparse file, which takes no disk.
void enlarge_head(SampleBundle* sample, uint64_t bytes) {
  nlohmann::json& json = sample->json();
  json["memory"]["dense_bytes"] =
      json["memory"]["dense_bytes"].get<uint64_t>() + bytes - json["head"]["bytes"].get<uint64_t>();
  json["head"]["bytes"] = bytes;
  sample->write();
  fs::resize_file(sample->file("dense/head.pte"), bytes);
}

TEST(Bundle, HashesAHugeFileBeforeItTakesMemory) {
  constexpr uint64_t kBytes = 512 << 20;
  SampleBundle sample;
  enlarge_head(&sample, kBytes);
  const Bundle bundle = Bundle::open(sample.path());
  const uint64_t before = peak_memory();
  EXPECT_ERROR(bundle.read_verified(bundle.manifest().head), ErrorCode::kBundleCorrupt, "SHA-256");
  EXPECT_LT(peak_memory() - before, kBytes / 2);
}

TEST(Bundle, RefusesAFileThatDoesNotFitInMemory) {
  SampleBundle sample;
  enlarge_head(&sample, uint64_t{1} << 43);
  const Bundle bundle = Bundle::open(sample.path());
  const FileRef& head = bundle.manifest().head;
  EXPECT_ERROR(bundle.read_verified(head), ErrorCode::kBudget, bundle.path(head));
}

TEST(Bundle, NoticesChangesAfterOpening) {
  SampleBundle sample;
  const Bundle bundle = Bundle::open(sample.path());
  write_file(sample.file("experts/layer-00.shard"), "short");
  EXPECT_ERROR(bundle.read_program({0, 0}), ErrorCode::kBundleInvalid, "changed its length");
  EXPECT_ERROR(bundle.verify_file(bundle.manifest().layers[0].experts->shard),
               ErrorCode::kBundleCorrupt, "layer-00.shard");
  write_file(sample.file("dense/head.pte"), "short");
  EXPECT_ERROR(bundle.read_verified(bundle.manifest().head), ErrorCode::kBundleInvalid, "length");
  EXPECT_ERROR(bundle.read_program({1, 0}), ErrorCode::kUsage, "layer 1");
  EXPECT_ERROR(bundle.read_program({0, 4}), ErrorCode::kUsage, "expert 4");
  EXPECT_ERROR(bundle.read_program({3, 0}), ErrorCode::kUsage, "layer 3");
}

}  // namespace
}  // namespace moe_mobile
