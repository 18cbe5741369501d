// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "python/routing.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <memory>

#include "routing/simulator.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace moe_mobile {
namespace {

using Logits = nb::ndarray<const float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

// Memory of one number per slot that becomes an array.
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

nb::dict simulate_trace(const Logits& logits, uint32_t top_k, uint32_t capacity,
                        const std::string& routing, const std::string& eviction, bool global_pool,
                        bool sigmoid, std::vector<float> bias, uint32_t groups,
                        uint32_t top_groups) {
  const size_t tokens = logits.shape(0), layers = logits.shape(1);
  Simulation simulation;
  simulation.logits = logits.data();
  simulation.tokens = tokens;
  simulation.layers = static_cast<uint32_t>(layers);
  simulation.router.num_experts = static_cast<uint32_t>(logits.shape(2));
  simulation.router.top_k = top_k;
  simulation.router.scoring = sigmoid ? Scoring::kSigmoid : Scoring::kSoftmax;
  simulation.router.bias = std::move(bias);
  simulation.router.groups = groups;
  simulation.router.top_groups = top_groups;
  simulation.routing = parse_routing(routing);
  simulation.capacity = capacity;
  simulation.global = global_pool;
  simulation.eviction = parse_eviction(eviction);
  check_router(simulation.router, simulation.layers);  // before memory is taken for top_k

  const size_t count = tokens * layers * top_k;
  Slots<int32_t> selected(count);
  Slots<uint8_t> missed(count), dropped(count);
  SimulatedTotals totals;
  {
    nb::gil_scoped_release unlocked;
    totals = simulate(simulation, {selected.data(), missed.data(), dropped.data()}, &check_signals);
  }
  nb::dict result;
  result["selected"] = selected.to_numpy<int32_t>({tokens, layers, top_k});
  result["missed"] = missed.to_numpy<bool>({tokens, layers, top_k});
  result["dropped"] = dropped.to_numpy<bool>({tokens, layers, top_k});
  result["routing"] = totals.routing;
  result["note"] = totals.note;
  result["misses"] = totals.misses;
  result["loads"] = totals.misses - totals.dropped;
  result["changed"] = totals.changed;
  result["evictions"] = totals.evictions;
  result["lifetime_tokens"] = totals.lifetime_tokens;
  return result;
}

}  // namespace

void bind_routing(nb::module_* module) {
  module->def("simulate", &simulate_trace, "logits"_a, "top_k"_a, "capacity"_a, "routing"_a,
              "eviction"_a, "global_pool"_a, "sigmoid"_a, "bias"_a, "groups"_a, "top_groups"_a);
}

}  // namespace moe_mobile
