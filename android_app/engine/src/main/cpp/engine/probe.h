// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <vector>

#include "base/sha256.h"
#include "executorch/method.h"
#include "executorch/signature.h"

namespace moe_mobile {

// What a method makes of one row of fixed inputs, its outputs one after the other. `prepare` keeps
// the SHA-256 in the packed store; a method that runs on the packed weights must give it again.
std::vector<float> probe(Method* method, const Signature& signature);
Sha256Digest digest_of(const std::vector<float>& probe);

// Whether two probes are of the same weights. The kernels of two kinds of cores may sum in another
// order, so what one of them gave need not be what another gives to the bit; other weights give
// something quite different.
bool same_weights(const std::vector<float>& a, const std::vector<float>& b);

}  // namespace moe_mobile
