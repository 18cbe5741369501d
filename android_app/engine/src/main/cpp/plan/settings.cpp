// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "plan/settings.h"

#include "base/error.h"
#include "cache/read_lanes.h"

namespace moe_mobile {

void check_settings(const EngineSettings& settings) {
  if (settings.eviction.kind == EvictionOptions::Kind::kBelady)
    throw Error(ErrorCode::kUsage, Setting{"eviction"},
                "belady needs to know the future, so it works in simulations only",
                "Choose lru, lfu or lfu:DECAY.");
  const bool profile = settings.initial_cache == InitialCache::kProfile;
  if (profile && settings.cache_profile.empty())
    throw Error(ErrorCode::kUsage, Setting{"cache_profile"},
                "`initial_cache` profile needs a profile", "Give a profile.");
  if (!profile && !settings.cache_profile.empty())
    throw Error(ErrorCode::kUsage, Setting{"cache_profile"}, "the profile would not be used",
                "Set `initial_cache` to profile too.");
  if (settings.lanes < 1 || settings.lanes > ReadLanes::kMost)
    throw Error(ErrorCode::kUsage, Setting{"lanes"},
                "invalid number of read lanes " + std::to_string(settings.lanes),
                "Give a number from 1 to " + std::to_string(ReadLanes::kMost) + ".");
}

}  // namespace moe_mobile
