// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "base/error.h"

namespace moe_mobile::testing {

// Runs `action` and returns the Error that it throws. If it throws none, the test fails and the
// Error is empty.
template <typename Action>
Error error_of(Action action) {
  try {
    action();
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "no Error was thrown";
  return Error(ErrorCode::kRuntime, "", "");
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace moe_mobile::testing

// `action` must throw an Error of this code whose message contains `part`.
#define EXPECT_ERROR(action, error_code, part)                                \
  do {                                                                        \
    const ::moe_mobile::Error expected_error =                                \
        ::moe_mobile::testing::error_of([&] { static_cast<void>(action); });  \
    EXPECT_STREQ(::moe_mobile::to_string(expected_error.code()),              \
                 ::moe_mobile::to_string(error_code));                        \
    EXPECT_TRUE(::moe_mobile::testing::contains(expected_error.what(), part)) \
        << expected_error.what();                                             \
  } while (false)
