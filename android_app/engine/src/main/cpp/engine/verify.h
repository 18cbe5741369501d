// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "bundle/bundle.h"
#include "engine/progress.h"

namespace moe_mobile {

struct VerifiedStore {
  std::string directory;
  uint64_t blobs = 0;
  uint64_t bytes = 0;
  bool complete = true;  // false: an interrupted prepare left files out
};

struct VerifiedBundle {
  uint64_t files = 0;
  uint64_t bytes = 0;
  std::optional<VerifiedStore> packed;  // empty: the bundle is not prepared
};

// Reads every byte and checks it: all files of the bundle by SHA-256, and every blob of the packed
// store, if there is one, by CRC-32C. Shards that `prepare --consume` deleted are skipped if the
// store has their experts. kBundleCorrupt at the first mismatch.
VerifiedBundle verify_bundle(const Bundle& bundle, const std::string& packed_dir,
                             const Progress& progress);

}  // namespace moe_mobile
