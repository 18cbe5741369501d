// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/file.h"
#include "bundle/manifest.h"

namespace moe_mobile {

// A bundle folder: its manifest, and reads of its files that are verified before anybody uses them.
class Bundle {
 public:
  // Loads bundle.json and checks that every listed file is a regular file of the stated length.
  // Shards may be missing
  // (`prepare --consume` deletes them). Hashes nothing but bundle.json.
  static Bundle open(const std::string& directory);

  const std::string& directory() const { return directory_; }
  const Manifest& manifest() const { return manifest_; }
  std::string path(const FileRef& file) const;
  // Whether the layer has experts and their shard was there when the bundle was opened.
  bool has_shard(uint32_t layer) const { return has_shard_.at(layer); }

  // Compares the file's SHA-256 with the manifest; kBundleCorrupt where they differ.
  void verify_file(const FileRef& file) const;
  // The file's bytes, after the same check on the very bytes returned.
  AlignedBuffer read_verified(const FileRef& file) const;
  // One expert's program (.pte bytes), checked against its own SHA-256. kIo where the shard is
  // missing.
  AlignedBuffer read_program(uint32_t layer, uint32_t expert) const;

 private:
  std::string directory_;
  Manifest manifest_;
  std::vector<bool> has_shard_;
};

}  // namespace moe_mobile
