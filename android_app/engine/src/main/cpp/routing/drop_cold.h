// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "routing/method.h"
#include "routing/router_scores.h"

namespace moe_mobile {

// drop-cold:F, an explicit lossy option: marks in out->dropped the selected experts that are not
// cached and whose share of the selected gate mass is below F / top_k. The best is never dropped.
void drop_cold(double fraction, const Ranking& ranking, const uint8_t* cached, Selection* out);

// Sets the weights of dropped experts to 0 and scales up the others so that the sum stays the same.
void move_dropped_weights(Selection* out);

}  // namespace moe_mobile
