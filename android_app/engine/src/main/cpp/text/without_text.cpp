// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

// In programs without the library of moe_text.h.

#include "base/error.h"
#include "text/bundle_text.h"

namespace moe_mobile {

std::string BundleText::missing(const Bundle&) {
  return "this moe_runner was built without text (MOE_TEXT_LIBRARY)";
}

std::unique_ptr<BundleText> BundleText::open(const Bundle& bundle) {
  throw Error(ErrorCode::kUnsupported, "", missing(bundle),
              "Send `token_ids`, or use a moe_runner that was built with it.");
}

}  // namespace moe_mobile
