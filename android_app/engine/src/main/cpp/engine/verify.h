// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "bundle/bundle.h"
#include "engine/progress.h"

namespace moe_mobile {

// Reads every byte: all files of the bundle against their SHA-256, and every blob of the packed
// store, if there is one, against its CRC-32C. Shards that `prepare --consume` deleted are skipped
// where the store stands for them. Returns {"files", "bytes", "packed": {"directory", "blobs",
// "bytes"} or null}. kBundleCorrupt at the first mismatch.
nlohmann::json verify_bundle(const Bundle& bundle, const std::string& packed_dir,
                             const Progress& progress);

}  // namespace moe_mobile
