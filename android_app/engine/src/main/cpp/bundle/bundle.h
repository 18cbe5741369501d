// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/file.h"
#include "bundle/manifest.h"
#include "cache/expert_key.h"

namespace moe_mobile {

// A bundle folder: its manifest, and reads of its files that are verified before anybody uses them.
class Bundle {
 public:
  // Loads bundle.json and checks that every listed file is a regular file of the stated length.
  // Shards may be missing (`prepare --consume` deletes them). Only bundle.json is hashed.
  static Bundle open(const std::string& directory);

  const std::string& directory() const { return directory_; }
  const Manifest& manifest() const { return manifest_; }
  std::string path(const FileRef& file) const;
  // Whether the layer has experts and their shard of this precision existed when the bundle was
  // opened.
  // REQUIRES: variant < manifest().precisions.size().
  bool has_shard(uint32_t layer, uint32_t variant) const {
    return has_shard_.at(layer * manifest_.precisions.size() + variant);
  }
  // Whether all shards existed then.
  bool has_all_shards() const;

  // Compares the file's SHA-256 with the manifest; kBundleCorrupt if they differ.
  void verify_file(const FileRef& file, const Hashed& hashed = {}) const;
  // The file's bytes, after the same check of exactly these bytes. kBudget if they do not fit in
  // memory.
  AlignedBuffer read_verified(const FileRef& file) const;
  // One expert's program (.pte bytes), checked against its own SHA-256. kIo if the shard is
  // missing.
  AlignedBuffer read_program(const ExpertKey& key) const;

 private:
  std::string directory_;
  Manifest manifest_;
  std::vector<bool> has_shard_;  // by layer and variant
};

}  // namespace moe_mobile
