// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "routing/method.h"

// All routing methods, one per line: NAME_method is defined in methods/NAME.cpp. Exact routing, the
// default, is the first.
#define MOE_MOBILE_ROUTING_METHODS(METHOD) \
  METHOD(exact)                            \
  METHOD(max_rank)                         \
  METHOD(cumulative)                       \
  METHOD(cache_prior)

namespace moe_mobile {

#define DECLARE(name) extern const MethodInfo name##_method;
MOE_MOBILE_ROUTING_METHODS(DECLARE)
#undef DECLARE

Span<const MethodInfo* const> routing_methods() {
#define ADDRESS(name) &name##_method,
  static const MethodInfo* const methods[] = {MOE_MOBILE_ROUTING_METHODS(ADDRESS)};
#undef ADDRESS
  return methods;
}

}  // namespace moe_mobile
