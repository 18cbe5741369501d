// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "routing/top_k.h"
#include "routing/window.h"

// Max-Rank, Algorithm 1 of arXiv 2412.00099: of the M best experts, cached ones go first.
namespace moe_mobile {
namespace {

class MaxRank : public RoutingMethod {
 public:
  explicit MaxRank(const MethodSettings& settings)
      : window_(static_cast<uint32_t>(std::min<double>(settings.value, settings.num_experts))),
        chooser_(settings) {}

  void choose(const Ranking& ranking, const uint8_t* cached, uint32_t* chosen) override {
    const auto in_window = [&](uint32_t expert) {
      return rank_of(ranking.z, ranking.num_experts, expert) < window_;
    };
    chooser_.choose(ranking, cached, in_window, chosen);
  }

 private:
  uint32_t window_;
  WindowChooser chooser_;
};

}  // namespace

extern const MethodInfo max_rank_method;
const MethodInfo max_rank_method = {
    "max-rank", "max-rank:M with a whole M of 1 to 1000000",
    [](double value) { return value >= 1 && value <= 1e6 && value == std::floor(value); }, nullptr,
    [](const MethodSettings& settings) -> std::unique_ptr<RoutingMethod> {
      return std::make_unique<MaxRank>(settings);
    }};

}  // namespace moe_mobile
