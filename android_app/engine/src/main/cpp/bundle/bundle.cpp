// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "bundle/bundle.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <set>

#include "base/error.h"
#include "cache/memory_planner.h"

namespace moe_mobile {
namespace {

constexpr char kRemedy[] = "Copy or export the bundle again";
constexpr char kNoBundle[] = "Name the folder of a bundle; `moe-mobile export MODEL OUT` makes one";

enum class Missing { kAllowed, kRefused };

class FileChecker {
 public:
  explicit FileChecker(const Bundle& bundle) : bundle_(bundle) {}

  // Whether the file exists. Throws for anything else that is wrong.
  bool check(const FileRef& file, Missing missing) {
    const std::string path = bundle_.path(file);
    for (size_t slash = file.path.find('/'); slash != std::string::npos;
         slash = file.path.find('/', slash + 1)) {
      if (!check_folder(file.path.substr(0, slash), missing)) return false;
    }
    struct stat status;
    if (::lstat(path.c_str(), &status) != 0) {
      if (errno != ENOENT) throw_errno(path, "inspect");
      if (missing == Missing::kAllowed) return false;
      throw Error(ErrorCode::kBundleInvalid, path, "is listed in bundle.json but missing", kRemedy);
    }
    if (S_ISLNK(status.st_mode)) {
      throw Error(ErrorCode::kBundleInvalid, path, "is a symbolic link",
                  "Put the file itself there.");
    }
    if (!S_ISREG(status.st_mode)) {
      throw Error(ErrorCode::kBundleInvalid, path, "is not a regular file", kRemedy);
    }
    const auto bytes = static_cast<uint64_t>(status.st_size);
    if (bytes != file.bytes) {
      throw Error(ErrorCode::kBundleInvalid, path,
                  "is " + std::to_string(bytes) + " bytes long, bundle.json says " +
                      std::to_string(file.bytes),
                  kRemedy);
    }
    return true;
  }

 private:
  // A link in the middle of a path would lead out of the bundle.
  bool check_folder(const std::string& folder, Missing missing) {
    if (checked_.count(folder) != 0) return true;
    const std::string path = bundle_.directory() + "/" + folder;
    struct stat status;
    if (::lstat(path.c_str(), &status) != 0) {
      if (errno != ENOENT) throw_errno(path, "inspect");
      if (missing == Missing::kAllowed) return false;
      throw Error(ErrorCode::kBundleInvalid, path, "is missing", kRemedy);
    }
    if (S_ISLNK(status.st_mode)) {
      throw Error(ErrorCode::kBundleInvalid, path, "is a symbolic link, not a folder",
                  "Put the folder itself there, or move the whole bundle.");
    }
    if (!S_ISDIR(status.st_mode)) {
      throw Error(ErrorCode::kBundleInvalid, path, "is not a folder", kRemedy);
    }
    checked_.insert(folder);
    return true;
  }

  const Bundle& bundle_;
  std::set<std::string> checked_;
};

void expect_hash(const Sha256Digest& actual, const Sha256Digest& expected, const std::string& path,
                 const std::string& what) {
  if (actual == expected) return;
  throw Error(ErrorCode::kBundleCorrupt, path,
              what + " has SHA-256 " + to_hex(actual) + ", bundle.json says " + to_hex(expected),
              kRemedy);
}

// More than this is hashed in the file before it takes memory: a wrong file takes none.
constexpr uint64_t kMostBeforeHash = 256 << 20;

AlignedBuffer read_hashed(int fd, uint64_t offset, uint64_t bytes, const Sha256Digest& expected,
                          const std::string& path, const std::string& what) {
  if (bytes > kMostBeforeHash) {
    if (bytes > available_memory()) throw_no_memory(path, bytes);
    expect_hash(sha256_file(fd, offset, bytes, path), expected, path, what);
  }
  AlignedBuffer buffer(bytes, path);
  read_exactly(fd, buffer.data(), buffer.size(), offset, path);
  // Again if it is large: the file may have changed.
  expect_hash(sha256(buffer.data(), buffer.size()), expected, path, what);
  return buffer;
}

}  // namespace

Bundle Bundle::open(const std::string& directory) {
  Bundle bundle;
  bundle.directory_ = directory;
  const std::string manifest_path = directory + "/bundle.json";
  struct stat status;
  if (::stat(directory.c_str(), &status) != 0) {
    if (errno != ENOENT) throw_errno(directory, "open the bundle");
    throw Error(ErrorCode::kBundleInvalid, directory, "not a bundle: there is no such folder",
                kNoBundle);
  }
  if (!S_ISDIR(status.st_mode)) {
    throw Error(ErrorCode::kBundleInvalid, directory, "not a bundle: it is not a folder",
                kNoBundle);
  }
  if (::lstat(manifest_path.c_str(), &status) != 0 && errno == ENOENT) {
    throw Error(ErrorCode::kBundleInvalid, manifest_path, "not a bundle: bundle.json is missing",
                kNoBundle);
  }
  bundle.manifest_ = parse_manifest(read_text(manifest_path, kMaxManifestBytes), manifest_path);

  const Manifest& m = bundle.manifest_;
  FileChecker checker(bundle);
  checker.check(m.embedding.file, Missing::kRefused);
  checker.check(m.head, Missing::kRefused);
  for (const FileRef& file : m.files) checker.check(file, Missing::kRefused);
  for (uint32_t layer = 0; layer < m.num_layers; ++layer) {
    checker.check(m.layers[layer].dense, Missing::kRefused);
    for (uint32_t variant = 0; variant < m.precisions.size(); ++variant)
      bundle.has_shard_.push_back(
          m.layers[layer].experts.has_value() &&
          checker.check(m.experts(layer, variant).shard, Missing::kAllowed));
  }
  return bundle;
}

bool Bundle::has_all_shards() const {
  const std::vector<ShardKey> shards = manifest_.shards();
  return std::all_of(shards.begin(), shards.end(), [this](const ShardKey& shard) {
    return has_shard(shard.layer, shard.variant);
  });
}

std::string Bundle::path(const FileRef& file) const { return directory_ + "/" + file.path; }

void Bundle::verify_file(const FileRef& file, const Hashed& hashed) const {
  const std::string name = path(file);
  const UniqueFd fd = open_read(name);
  expect_hash(sha256_file(fd.get(), 0, file.bytes, name, hashed), file.sha256, name, "the file");
}

AlignedBuffer Bundle::read_verified(const FileRef& file) const {
  const std::string name = path(file);
  const UniqueFd fd = open_read(name);
  // The file may have changed since open(): the length is checked before memory is taken for it.
  if (file_size(fd.get(), name) != file.bytes) {
    throw Error(ErrorCode::kBundleInvalid, name, "has changed its length", kRemedy);
  }
  return read_hashed(fd.get(), 0, file.bytes, file.sha256, name, "the file");
}

AlignedBuffer Bundle::read_program(const ExpertKey& key) const {
  if (key.layer >= manifest_.layers.size() || !manifest_.layers[key.layer].experts.has_value() ||
      key.expert >= manifest_.moe.num_experts || key.variant >= manifest_.precisions.size()) {
    throw Error(ErrorCode::kUsage, directory_,
                "has no expert " + std::to_string(key.expert) + " in layer " +
                    std::to_string(key.layer) + ", variant " + std::to_string(key.variant));
  }
  const LayerExperts& experts = manifest_.experts(key.layer, key.variant);
  const ExpertProgram& program = experts.programs[key.expert];
  const std::string name = path(experts.shard);
  if (!has_shard(key.layer, key.variant)) {
    throw Error(ErrorCode::kIo, name, "is missing; only its packed file may exist",
                "Copy the shard into the bundle again");
  }
  const UniqueFd fd = open_read(name);
  if (file_size(fd.get(), name) != experts.shard.bytes) {
    throw Error(ErrorCode::kBundleInvalid, name, "has changed its length", kRemedy);
  }
  return read_hashed(fd.get(), program.offset, program.bytes, program.sha256, name,
                     "the program of expert " + std::to_string(key.expert));
}

}  // namespace moe_mobile
