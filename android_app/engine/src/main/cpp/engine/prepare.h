// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <cstdint>
#include <string>

#include "bundle/bundle.h"
#include "engine/progress.h"

namespace moe_mobile {

struct PrepareOptions {
  std::string packed_dir;  // empty: BUNDLE/.packed/<key>
  // Deletes each shard once its packed bytes are durable: a phone may not have room for the model
  // twice.
  bool consume = false;
  // False: only the dense methods, for residency `programs`.
  bool experts = true;
};

struct PrepareResult {
  std::string directory;
  uint64_t experts = 0;        // in the store
  uint64_t bytes_written = 0;  // by this run
  bool already_prepared = false;
  // By `consume` in this run.
  uint64_t shards_deleted = 0;
  uint64_t bytes_deleted = 0;
};

// Packs the bundle's programs for this CPU into the packed store. Programs whose delegate does not
// pack weights are left out; if there are no others, nothing is written. Every program's SHA-256 is
// checked before ExecuTorch sees it. Files appear complete or not at all, so an interrupted run
// continues at its layer, with the same bytes as an uninterrupted run. One process at a time;
// others wait (kIo after an hour). Throws kDiskFull before writing if there is too little space,
// kReadOnly, kBundleCorrupt; kUsage if a folder other than the bundle's own holds another bundle's
// weights; kUnsupported for `consume` if the experts are not packed.
PrepareResult prepare(const Bundle& bundle, const PrepareOptions& options,
                      const Progress& progress);

// Whether the store in `directory` is complete (without `experts`: for the dense methods) and
// belongs to this bundle. A damaged store counts as not prepared, but the blobs are not read.
bool is_prepared(const Bundle& bundle, const std::string& directory, bool experts = true);

}  // namespace moe_mobile
