// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include "base/sha256.h"
#include "executorch/method.h"
#include "executorch/signature.h"

namespace moe_mobile {

// The SHA-256 of what a method makes of one row of fixed inputs. `prepare` keeps it in the packed
// store; a method that runs on the packed weights must give it again, bit for bit.
Sha256Digest probe(Method* method, const Signature& signature);

}  // namespace moe_mobile
