// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "python/routing.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "base/error.h"
#include "cache/budget.h"
#include "plan/engine_plan.h"
#include "routing/simulator.h"
#include "routing/top_k.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace moe_mobile {
namespace {

using TraceLogits = nb::ndarray<const float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using LayerLogits = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

// Memory with one number per slot, which becomes an array.
template <typename Stored>
class Slots {
 public:
  explicit Slots(size_t count) : memory_(new Stored[count]) {}
  Stored* data() const { return memory_.get(); }

  template <typename Seen>
  nb::object to_numpy(std::initializer_list<size_t> shape) {
    Stored* data = memory_.release();
    nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<Stored*>(p); });
    return nb::cast(nb::ndarray<nb::numpy, Seen>(data, shape, owner));
  }

 private:
  std::unique_ptr<Stored[]> memory_;
};

void init_router(RouterSpec* self, uint32_t experts, uint32_t top_k, const std::string& score,
                 bool renormalize, float scale, float epsilon, uint32_t groups, uint32_t top_groups,
                 std::vector<float> bias) {
  RouterSpec spec;
  spec.num_experts = experts;
  spec.top_k = top_k;
  spec.scoring = parse_scoring(score);
  spec.renormalize = renormalize;
  spec.scale = scale;
  spec.epsilon = epsilon;
  spec.groups = groups;
  spec.top_groups = top_groups;
  spec.bias = std::move(bias);
  new (self) RouterSpec(std::move(spec));
}

// Capacities are per layer.
void init_settings(SelectorSettings* self, const RouterSpec& router, std::vector<uint32_t> layers,
                   uint32_t capacity, const std::string& routing, const std::string& eviction,
                   bool global_pool, bool warm, std::vector<std::vector<uint32_t>> profile,
                   const std::string& precision, uint32_t low_capacity) {
  SelectorSettings settings;
  settings.router = router;
  settings.routing = parse_routing(routing);
  settings.global = global_pool;
  const auto pool = [&](uint32_t experts) {
    const uint64_t all = uint64_t{experts} * (global_pool ? layers.size() : 1);
    return static_cast<uint32_t>(std::min<uint64_t>(all, UINT32_MAX));
  };
  settings.capacity = pool(capacity);
  settings.low_capacity = pool(low_capacity);
  settings.precision = parse_precision(precision);
  settings.layers = std::move(layers);
  settings.eviction = parse_eviction(eviction);
  if (warm) settings.initial = InitialCache::kPrompt;
  if (!profile.empty()) settings.initial = InitialCache::kProfile;
  settings.profile = std::move(profile);
  new (self) SelectorSettings(std::move(settings));
}

// Python's "missed" means: not in the lab's cache.
void add_totals(const RunTotals& totals, nb::dict* out) {
  (*out)["slots"] = totals.slots;
  (*out)["misses"] = totals.uncached;
  (*out)["loads"] = totals.uncached - totals.dropped;
  (*out)["changed"] = totals.changed;
  (*out)["evictions"] = totals.evictions;
  (*out)["lifetime_tokens"] = totals.lifetime_tokens;
}

nb::dict simulate_trace(const TraceLogits& logits, std::vector<uint64_t> sequences,
                        uint64_t prompt_tokens, const SelectorSettings& settings) {
  Simulation simulation;
  simulation.logits = logits.data();
  simulation.sequences = std::move(sequences);
  simulation.prompt_tokens = prompt_tokens;
  simulation.run = settings;
  const uint32_t top_k = settings.router.top_k;
  check_router(settings.router,
               static_cast<uint32_t>(settings.layers.size()));  // before memory is taken for top_k

  const size_t tokens = logits.shape(0), layers = logits.shape(1), count = tokens * layers * top_k;
  Slots<int32_t> selected(count);
  Slots<uint8_t> uncached(count), dropped(count);
  SimulatedTotals totals;
  {
    nb::gil_scoped_release unlocked;
    totals =
        simulate(simulation, {selected.data(), uncached.data(), dropped.data()}, &check_signals);
  }
  nb::dict result;
  result["selected"] = selected.to_numpy<int32_t>({tokens, layers, top_k});
  result["missed"] = uncached.to_numpy<bool>({tokens, layers, top_k});
  result["dropped"] = dropped.to_numpy<bool>({tokens, layers, top_k});
  result["routing"] = totals.routing;
  result["note"] = totals.note;
  add_totals(totals.decoded, &result);
  return result;
}

// A layer's tokens in order. All are checked before the first is used, so an error changes nothing.
nb::tuple route(RoutingRun* run, uint32_t layer, const LayerLogits& logits, bool prompt) {
  const size_t tokens = logits.shape(0), experts = logits.shape(1);
  const LogicalCacheOptions& cache = run->caches()[0].options();
  if (cache.global && cache.layers > 1 && tokens > 1)
    throw Error(ErrorCode::kUsage, Setting{"logits"},
                "they hold " + std::to_string(tokens) + " tokens",
                "Take one token through all layers before the next; one pool depends on it.");
  for (size_t token = 0; token < tokens; ++token) {
    const uint32_t bad =
        first_not_finite(logits.data() + token * experts, static_cast<uint32_t>(experts));
    if (bad < experts)
      throw Error(ErrorCode::kUsage, Setting{"logits"},
                  "token " + std::to_string(token) + ", expert " + std::to_string(bad) +
                      " is NaN or infinite",
                  "Give finite logits.");
  }
  const size_t top_k = run->top_k();
  Slots<int32_t> selected(tokens * top_k);
  Slots<uint8_t> uncached(tokens * top_k), dropped(tokens * top_k);
  for (size_t token = 0; token < tokens; ++token) {
    const RunStep step = run->step(layer, logits.data() + token * experts, prompt);
    const size_t at = token * top_k;
    write_slots(step, static_cast<uint32_t>(top_k),
                {selected.data() + at, uncached.data() + at, dropped.data() + at});
  }
  return nb::make_tuple(selected.to_numpy<int32_t>({tokens, top_k}),
                        uncached.to_numpy<bool>({tokens, top_k}),
                        dropped.to_numpy<bool>({tokens, top_k}));
}

// [layers, experts], in any precision.
nb::object cached(const RoutingRun& run) {
  const LogicalCacheOptions& cache = run.caches()[0].options();
  const size_t layers = cache.layers, experts = cache.experts;
  Slots<uint8_t> held(layers * experts);
  std::fill_n(held.data(), layers * experts, uint8_t{0});
  for (const LogicalCache& one : run.caches())
    for (uint32_t layer = 0; layer < layers; ++layer)
      for (size_t expert = 0; expert < experts; ++expert)
        held.data()[layer * experts + expert] |= one.cached(layer)[expert];
  return held.to_numpy<bool>({layers, experts});
}

}  // namespace

void bind_routing(nb::module_* module) {
  module->def(
      "percent_of",
      [](const std::string& text) {
        const Budget budget = parse_budget(text);
        return budget.kind == Budget::Kind::kPercent ? std::optional(budget.percent) : std::nullopt;
      },
      "budget"_a, "Of each layer's experts; None: the budget is not a share.");
  module->def(
      "check_precision",
      [](const std::string& precision, uint32_t top_k, const std::vector<std::string>& names) {
        std::vector<ExpertPrecision> precisions;
        for (const std::string& name : names) precisions.push_back({name, 0});
        check_precision(parse_precision(precision), top_k, precisions);
      },
      "precision"_a, "top_k"_a, "precisions"_a);
  module->def("experts_of_share", &experts_of_share, "percent"_a, "experts"_a);
  module->def("share_text", &share_text, "slots"_a, "experts"_a);
  nb::class_<RouterSpec>(*module, "RouterSpec")
      .def("__init__", &init_router, "experts"_a, "top_k"_a, "score"_a, "renormalize"_a, "scale"_a,
           "epsilon"_a, "groups"_a, "top_groups"_a, "bias"_a);
  nb::class_<SelectorSettings>(*module, "RunSettings")
      .def("__init__", &init_settings, "router"_a, "layers"_a, "capacity"_a, "routing"_a,
           "eviction"_a, "global_pool"_a, "warm"_a, "profile"_a, "precision"_a, "low_capacity"_a);
  nb::class_<RoutingRun>(*module, "RoutingRun")
      .def(nb::init<const SelectorSettings&>(), "settings"_a)
      .def("route", &route, "layer"_a, "logits"_a, "prompt"_a)
      .def("cached", &cached)
      .def("reset", &RoutingRun::reset)
      .def_prop_ro("routing", [](const RoutingRun& run) { return run.routing().text; })
      .def_prop_ro("note", [](const RoutingRun& run) { return run.routing().note; })
      .def("totals", [](const RoutingRun& run) {
        nb::dict totals;
        add_totals(run.totals(), &totals);
        return totals;
      });
  module->def("simulate", &simulate_trace, "logits"_a, "sequences"_a, "prompt_tokens"_a,
              "settings"_a);
}

}  // namespace moe_mobile
