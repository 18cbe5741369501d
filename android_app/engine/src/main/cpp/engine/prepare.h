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
  // Deletes each shard once its packed bytes are durable: a phone must not hold the model twice.
  bool consume = false;
  // False: only what residency `programs` takes from the store, the dense methods.
  bool experts = true;
};

struct PrepareResult {
  std::string directory;
  uint64_t experts = 0;        // in the store
  uint64_t bytes_written = 0;  // by this run
  bool already_prepared = false;
};

// Turns the bundle's programs into the packed store of this CPU, those whose delegate has packed
// weights: there may be none, then nothing is written. Every program's SHA-256 is checked
// before ExecuTorch sees it. Files appear complete or not at all, so an interrupted run continues
// at the layer it was in, and its result equals an uninterrupted one byte for byte. One process at
// a time; others wait (kIo after an hour). Throws kDiskFull before writing if the space is known to
// be too small, kReadOnly, kBundleCorrupt; kUsage if a folder other than the bundle's own holds
// another bundle's weights; kUnsupported for `consume` if the experts are not packed.
PrepareResult prepare(const Bundle& bundle, const PrepareOptions& options,
                      const Progress& progress);

// Whether the store in `directory` is complete (without `experts`: as far as dense methods go) and
// belongs to this bundle. Damage counts as not prepared, but reads nothing of the blobs.
bool is_prepared(const Bundle& bundle, const std::string& directory, bool experts = true);

}  // namespace moe_mobile
