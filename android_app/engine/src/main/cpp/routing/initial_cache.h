// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace moe_mobile {

// What is cached when decoding of a sequence begins. Only `warm` depends on earlier sequences.
enum class InitialCache {
  kAuto,     // for hosts: warm for exact routing, whose output does not change; else prompt
  kWarm,     // what earlier sequences and the prompt left; at first the profile, as kProfile
  kCold,     // nothing
  kPrompt,   // what the prompt leaves in a cache that was empty
  kProfile,  // the first experts of a profile, as many as fit
};

}  // namespace moe_mobile
