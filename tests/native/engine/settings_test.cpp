// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "base/expect_error.h"
#include "engine/packed_store.h"
#include "engine/settings_json.h"
#include "executorch/xnnpack/layout_key.h"

namespace moe_mobile {
namespace {

using nlohmann::json;

TEST(Settings, MembersMayBeMissingOrNull) {
  const EngineSettings settings = parse_settings(json::parse(R"({"threads": null})"));
  EXPECT_EQ(to_text(settings.cache), "50%");
  EXPECT_EQ(to_text(settings.routing), "exact");
  EXPECT_EQ(to_text(settings.eviction), "lru");
  EXPECT_EQ(settings.residency, Residency::kSlots);
  EXPECT_EQ(settings.threads, 0u);
}

TEST(Settings, RoundTripThroughJson) {
  const json given = {{"cache", "1GiB"}, {"residency", "programs"}, {"lanes", 4u},
                      {"threads", 3u},   {"context", 77u},          {"allow_below_cycle", true}};
  const json back = parse_settings(given);
  for (const auto& item : given.items()) EXPECT_EQ(back[item.key()], item.value()) << item.key();
  EXPECT_EQ(json(parse_settings(back)), back);
}

TEST(Settings, RoutingAndItsCacheAreRead) {
  const EngineSettings settings = parse_settings(json::parse(R"({
    "routing": "cache-prior:0.2,J=1+drop-cold:0.5", "pool": "layer", "eviction": "lfu:0.9",
    "initial_cache": "profile", "cache_profile": {"0": [3, 1], "12": []}})"));
  EXPECT_EQ(to_text(settings.routing), "cache-prior:0.2,J=1+drop-cold:0.5");
  EXPECT_EQ(settings.routing.drop_cold, 0.5);
  EXPECT_EQ(settings.eviction.kind, EvictionOptions::Kind::kLfu);
  EXPECT_EQ(settings.eviction.decay, 0.9);
  EXPECT_EQ(settings.pool, Pool::kPerLayer);
  EXPECT_EQ(settings.initial_cache, InitialCache::kProfile);
  EXPECT_EQ(settings.cache_profile.at(0), (std::vector<uint32_t>{3, 1}));
  EXPECT_TRUE(settings.cache_profile.at(12).empty());
  const json back = settings;
  EXPECT_EQ(back["initial_cache"], "profile");
  EXPECT_EQ(back["cache_profile"], json::parse(R"({"0": [3, 1], "12": []})"));
  EXPECT_EQ(json(parse_settings(back)), back);
  EXPECT_FALSE(json(EngineSettings()).contains("cache_profile"));
}

TEST(Settings, ErrorsNameTheSetting) {
  const struct {
    const char* text;
    const char* member;
  } cases[] = {
      {R"([])", "settings"},
      {R"({"cahce": "50%"})", "cahce"},
      {R"({"cache": 50})", "cache"},
      {R"({"residency": "ram"})", "residency"},
      {R"({"routing": "random"})", "routing"},
      {R"({"routing": "cache-prior:0.2,K=2"})", "routing"},
      {R"({"pool": "shared"})", "pool"},
      {R"({"eviction": "belady"})", "eviction"},
      {R"({"eviction": "fifo"})", "eviction"},
      {R"({"initial_cache": "hot"})", "initial_cache"},
      {R"({"initial_cache": "profile"})", "cache_profile"},
      {R"({"cache_profile": {"0": [1]}})", "cache_profile"},
      {R"({"initial_cache": "profile", "cache_profile": {"-1": [1]}})", "cache_profile"},
      {R"({"initial_cache": "profile", "cache_profile": {"0": [1.5]}})", "cache_profile"},
      {R"({"initial_cache": "profile", "cache_profile": [[1]]})", "cache_profile"},
      {R"({"lanes": 0})", "lanes"},
      {R"({"lanes": 17})", "lanes"},
      {R"({"lanes": -1})", "lanes"},
      {R"({"lanes": 1.5})", "lanes"},
      {R"({"threads": 4294967296})", "threads"},
      {R"({"context": "64"})", "context"},
      {R"({"direct": 1})", "direct"},
      {R"({"packed_dir": []})", "packed_dir"},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.text);
    const Error error = testing::error_of([&] { parse_settings(json::parse(c.text)); });
    EXPECT_EQ(error.code(), ErrorCode::kUsage);
    EXPECT_EQ(error.setting(), c.member);
    EXPECT_EQ(error.file(), "");
    EXPECT_NE(error.remedy(), "");
  }
  for (const char* text : {R"({"threads": 4294967296})", R"({"threads": -1})"})
    EXPECT_ERROR(parse_settings(json::parse(text)), ErrorCode::kUsage, "0 to 4294967295");
  for (const char* text : {R"({"lanes": 2.5})", R"({"lanes": true})", R"({"lanes": 0})"})
    EXPECT_ERROR(parse_settings(json::parse(text)), ErrorCode::kUsage, "from 1 to 16");
  EXPECT_ERROR(parse_sampling(json::parse(R"({"seed": 18446744073709551616})")), ErrorCode::kUsage,
               "0 to 18446744073709551615");
  EXPECT_ERROR(parse_sampling(json{{"top_k", -1}}), ErrorCode::kUsage, "top_k");
  EXPECT_ERROR(parse_sampling(json{{"temprature", 1}}), ErrorCode::kUsage, "temprature");
}

TEST(StoreKey, HoldsOnlyFeaturesThatSelectMicroKernels) {
  const std::string x86 =
      "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel\t\t: 143\nmodel name\t: Xeon\n"
      "cpu MHz\t\t: 2100.5\nflags\t\t: fpu fma avx2 md_clear avx2 sse retpoline\n\n";
  EXPECT_EQ(cpu_features(x86), "avx2 fma fpu model=143 sse vendor_id=GenuineIntel");
  EXPECT_EQ(cpu_features(x86 + x86), cpu_features(x86));
  const std::string arm =
      "processor\t: 0\nBogoMIPS\t: 38.4\nFeatures\t: fp asimd evtstrm\nCPU part\t: 0xd05\n"
      "processor\t: 7\nFeatures\t: fp asimd sve\nCPU part\t: 0xd0b\n";
  EXPECT_EQ(cpu_features(arm), "CPU part=0xd05 CPU part=0xd0b asimd fp sve");
}

TEST(StoreKey, SurvivesAnyText) {
  EXPECT_EQ(cpu_features(""), "");
  EXPECT_EQ(
      cpu_features("no colon\n:\n : x\nflags:\nflags :  \nmodel:\nvendor_id :\nCPU part : \n"), "");
}

TEST(StoreKey, IsAFolderName) {
  const std::string key = packed_store_key();
  EXPECT_EQ(key, packed_store_key());
  EXPECT_EQ(key.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789._-"), std::string::npos);
}

}  // namespace
}  // namespace moe_mobile
