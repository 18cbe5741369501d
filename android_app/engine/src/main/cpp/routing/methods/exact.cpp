// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "routing/method.h"

namespace moe_mobile {

extern const MethodInfo exact_method;
const MethodInfo exact_method = {"exact", "exact", nullptr, nullptr, nullptr};

}  // namespace moe_mobile
