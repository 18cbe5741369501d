// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "routing/routing_options.h"

#include <gtest/gtest.h>

#include "base/expect_error.h"
#include "routing/method.h"

namespace moe_mobile {
namespace {

RouterSpec spec_of(uint32_t num_experts, uint32_t top_k) {
  RouterSpec spec;
  spec.num_experts = num_experts;
  spec.top_k = top_k;
  return spec;
}

std::string resolved(const std::string& text, uint32_t top_k = 8, double capacity = 32) {
  return resolve_routing(parse_routing(text), spec_of(64, top_k), 4, capacity).text;
}

TEST(RoutingOptions, ReadsAllParts) {
  const RoutingOptions options = parse_routing("cache-prior:0.2,J=3,first=1+drop-cold:0.75");
  EXPECT_STREQ(options.method->name, "cache-prior");
  EXPECT_EQ(options.value, 0.2);
  EXPECT_EQ(options.guaranteed, 3u);
  EXPECT_EQ(options.first, 1u);
  EXPECT_EQ(options.drop_cold, 0.75);
  EXPECT_FALSE(options.automatic);
  EXPECT_TRUE(parse_routing("cache-prior:auto").automatic);
}

TEST(RoutingOptions, ResolvesToTextThatReadsTheSame) {
  EXPECT_EQ(resolved("exact"), "exact");
  EXPECT_EQ(resolved("exact,first=2+drop-cold:0.5"), "exact,first=2+drop-cold:0.5");
  EXPECT_EQ(resolved("max-rank:12"), "max-rank:12,J=2");
  EXPECT_EQ(resolved("cumulative:0.90,J=0"), "cumulative:0.9,J=0");
  EXPECT_EQ(resolved("cache-prior:0.2,first=1,J=1"), "cache-prior:0.2,J=1,first=1");
  EXPECT_EQ(resolved(resolved("cache-prior:auto+drop-cold:1")), "cache-prior:0.3,J=2+drop-cold:1");
}

TEST(RoutingOptions, GuaranteesOneExpertOfTopTwoRoutersAndIsOffForTopOne) {
  EXPECT_EQ(resolved("cache-prior:0.2", 2), "cache-prior:0.2,J=1");
  EXPECT_EQ(resolved("cache-prior:0.2", 3), "cache-prior:0.2,J=2");
  const ResolvedRouting off = resolve_routing(parse_routing("max-rank:4"), spec_of(64, 1), 4, 32);
  EXPECT_EQ(off.text, "exact");
  EXPECT_TRUE(testing::contains(off.note, "max-rank is off: J=1"));
  EXPECT_EQ(resolved("cache-prior:auto,J=8+drop-cold:1"), "exact+drop-cold:1");
  EXPECT_ERROR(resolved("cache-prior:0.2,J=9"), ErrorCode::kUsage, "J=9 of 8");
}

TEST(RoutingOptions, IsExactIfNoLayerIsLeft) {
  EXPECT_EQ(resolved("cache-prior:0.2,first=3+drop-cold:1"),
            "cache-prior:0.2,J=2,first=3+drop-cold:1");
  const ResolvedRouting off =
      resolve_routing(parse_routing("cache-prior:auto,first=4+drop-cold:1"), spec_of(64, 8), 4, 32);
  EXPECT_EQ(off.text, "exact");
  EXPECT_FALSE(off.lossy());
  EXPECT_TRUE(testing::contains(off.note, "first=4 leaves no layer"));
  EXPECT_EQ(resolved("exact,first=4"), "exact");
}

TEST(RoutingOptions, LambdaFollowsTheCoverage) {
  const auto lambda = [](double capacity) {
    return resolve_routing(parse_routing("cache-prior:auto"), spec_of(100, 8), 4, capacity)
        .options.value;
  };
  EXPECT_EQ(lambda(7.9), 0);
  EXPECT_EQ(lambda(8), 0.1);
  EXPECT_EQ(lambda(10), 0.1);
  EXPECT_NEAR(lambda(17.5), 0.125, 1e-12);
  EXPECT_NEAR(lambda(25), 0.15, 1e-12);
  EXPECT_NEAR(lambda(37.5), 0.225, 1e-12);
  EXPECT_EQ(lambda(50), 0.3);
  EXPECT_EQ(lambda(100), 0.3);
}

TEST(RoutingOptions, ErrorsNameTheMistakeAndTheValidForms) {
  for (const char* text : {"",
                           "fast",
                           "exact:1",
                           "max-rank",
                           "max-rank:",
                           "max-rank:0",
                           "max-rank:1.5",
                           "max-rank:99999999999999999999",
                           "max-rank:auto",
                           "cumulative:0",
                           "cumulative:1.1",
                           "cumulative:x",
                           "cache-prior:-0.1",
                           "cache-prior:nan",
                           "cache-prior:101",
                           "exact,J=2",
                           "max-rank:9,J=-1",
                           "max-rank:9,J=1,J=1",
                           "max-rank:9,first=",
                           "max-rank:9,first=1,first=1",
                           "max-rank:9,K=1",
                           "max-rank:9,",
                           "drop-cold:0.5",
                           "exact+drop-cold",
                           "exact+drop-cold:-1",
                           "exact+",
                           "exact+exact",
                           "exact+drop-cold:1+drop-cold:1",
                           " exact",
                           "EXACT"})
    EXPECT_EQ(testing::error_of([&] { parse_routing(text); }).code(), ErrorCode::kUsage) << text;
  const Error error = testing::error_of([] { parse_routing("fast:1"); });
  EXPECT_EQ(error.setting(), "routing");
  EXPECT_TRUE(testing::contains(error.cause(), "fast:1"));
  EXPECT_TRUE(testing::contains(error.remedy(), "cache-prior:LAMBDA"));
}

}  // namespace
}  // namespace moe_mobile
