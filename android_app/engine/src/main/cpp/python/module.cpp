// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

// The module moe_mobile._native: the engine for Python. moe_mobile/engine.py gives it its public
// face.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <filesystem>
#include <map>

#include "base/error.h"
#include "base/file.h"
#include "base/machine_secret.h"
#include "bundle/packed_file.h"
#include "bundle/quantization.h"
#include "cache/expert_key.h"
#include "cache/memory_planner.h"
#include "cache/read_lanes.h"
#include "engine/bench.h"
#include "engine/engine_json.h"
#include "engine/generate.h"
#include "engine/packed_store.h"
#include "engine/samples.h"
#include "engine/settings_json.h"
#include "python/routing.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace moe_mobile {
namespace {

using FloatArray = nb::ndarray<nb::numpy, float>;
using TokenIds = std::vector<uint32_t>;

// Raises moe_mobile.errors' class for the code; what() would lose the parts.
void translate_errors() {
  nb::register_exception_translator([](const std::exception_ptr& pointer, void*) {
    try {
      std::rethrow_exception(pointer);
    } catch (const Error& error) {
      nb::object make = nb::module_::import_("moe_mobile.errors").attr("from_code");
      nb::object instance = make(to_string(error.code()), error.file(), error.cause(),
                                 error.remedy(), error.setting());
      PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(instance.ptr())), instance.ptr());
    }
  });
}

// Calls back into Python between steps; Ctrl-C and exceptions of the callback stop the work.
Progress to_progress(nb::object callback) {
  return [callback](const char* stage, uint64_t done, uint64_t total) {
    nb::gil_scoped_acquire locked;
    if (PyErr_CheckSignals() != 0) throw nb::python_error();
    if (!callback.is_none()) callback(stage, done, total);
  };
}

// Calls back with the plan as JSON text.
Engine::Planned to_planned(nb::object callback) {
  return [callback](const MemoryPlan& plan) {
    nb::gil_scoped_acquire locked;
    if (!callback.is_none()) callback(nlohmann::json(plan).dump());
  };
}

template <typename T>
nb::ndarray<nb::numpy, T> to_numpy(std::vector<T> values, std::initializer_list<size_t> shape) {
  auto* owned = new std::vector<T>(std::move(values));
  nb::capsule owner(owned, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
  return nb::ndarray<nb::numpy, T>(owned->data(), shape, owner);
}

// The arrays of a snapshot, as moe_mobile.results.Residency names them.
nb::dict to_dict(const ResidencySnapshot& snapshot) {
  const size_t layers = snapshot.layers.size();
  const std::initializer_list<size_t> table = {layers, snapshot.num_experts};
  std::vector<uint8_t> states;
  for (const ExpertState state : snapshot.states) states.push_back(static_cast<uint8_t>(state));
  nb::dict arrays;
  arrays["layers"] = to_numpy(snapshot.layers, {layers});
  arrays["states"] = to_numpy(std::move(states), table);
  arrays["variants"] = to_numpy(snapshot.variants, table);
  arrays["hits"] = to_numpy(snapshot.hits, {layers});
  arrays["misses"] = to_numpy(snapshot.misses, {layers});
  return arrays;
}

nlohmann::json parse_json(const std::string& text) {
  nlohmann::json json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded())
    throw Error(ErrorCode::kUsage, Setting{"settings"},
                "they are not JSON, or a number in them is too large", "Correct the number.");
  return json;
}

FloatArray score_all(Engine* engine, const TokenIds& tokens) {
  const size_t vocab_size = engine->model().vocab_size;
  std::vector<float> rows;
  {
    nb::gil_scoped_release unlocked;
    engine->reset();
    score(engine, tokens, [&](size_t index, const float* logits) {
      if (index == 0) rows.resize(tokens.size() * vocab_size);
      std::copy(logits, logits + vocab_size, rows.data() + index * vocab_size);
      check_signals();
    });
  }
  return to_numpy(std::move(rows), {tokens.size(), vocab_size});
}

FloatArray nll_all(Engine* engine, const TokenIds& tokens) {
  std::vector<float> values;
  {
    nb::gil_scoped_release unlocked;
    engine->reset();
    score(engine, tokens, [&](size_t index, const float* logits) {
      if (index + 1 < tokens.size())
        values.push_back(static_cast<float>(
            -log_probability(logits, engine->model().vocab_size, tokens[index + 1])));
      check_signals();
    });
  }
  const size_t count = values.size();
  return to_numpy(std::move(values), {count});
}

}  // namespace

void check_signals() {
  nb::gil_scoped_acquire locked;
  if (PyErr_CheckSignals() != 0) throw nb::python_error();
}

NB_MODULE(_native, module) {
  translate_errors();
  set_state_directory(default_state_directory());
  bind_routing(&module);

  nb::class_<Generator>(module, "Generator")
      .def("next", &Generator::next, nb::call_guard<nb::gil_scoped_release>())
      .def_prop_ro("stop", &Generator::stop)
      .def_prop_ro(
          "logits",
          [](const Generator& generator) {
            const float* logits = generator.logits();
            const size_t count = logits ? generator.model().vocab_size : 0;
            return to_numpy(std::vector<float>(logits, logits + count), {count});
          },
          nb::rv_policy::automatic);

  nb::class_<Engine>(module, "Engine")
      .def(
          "generate",
          [](Engine& engine, const TokenIds& prompt, uint32_t max_new_tokens,
             const std::string& sampling, bool ignore_eos, nb::object progress) {
            const Progress report = to_progress(std::move(progress));
            nb::gil_scoped_release unlocked;
            engine.reset();
            return std::make_unique<Generator>(&engine, prompt, max_new_tokens,
                                               parse_sampling(parse_json(sampling)), ignore_eos,
                                               report);
          },
          "token_ids"_a, "max_new_tokens"_a, "sampling_json"_a, "ignore_eos"_a, "progress"_a.none(),
          nb::keep_alive<0, 1>())
      .def("score", &score_all, "token_ids"_a)
      .def("nll", &nll_all, "token_ids"_a)
      .def("stats_json", [](const Engine& engine) { return nlohmann::json(engine.stats()).dump(); })
      .def("info_json", [](const Engine& engine) { return nlohmann::json(engine.info()).dump(); })
      .def("reset", &Engine::reset, nb::call_guard<nb::gil_scoped_release>())
      .def("cancel", &Engine::cancel)
      .def(
          "resize",
          [](Engine& engine, const std::string& budget) { engine.resize(parse_budget(budget)); },
          "cache"_a, nb::call_guard<nb::gil_scoped_release>())
      .def("residency", [](const Engine& engine) { return to_dict(engine.residency()); });

  module.def(
      "open",
      [](const std::string& bundle, const std::string& settings, nb::object progress,
         nb::object planned) {
        const Progress report = to_progress(std::move(progress));
        const Engine::Planned tell = to_planned(std::move(planned));
        nb::gil_scoped_release unlocked;
        EngineSettings parsed = parse_settings(parse_json(settings));
        std::error_code none;
        if (parsed.scratch_dir.empty())
          parsed.scratch_dir = std::filesystem::temp_directory_path(none).string();
        return Engine::open(bundle, parsed, report, tell);
      },
      "bundle"_a, "settings_json"_a, "progress"_a.none(), "planned"_a.none());

  module.def(
      "check_settings", [](const std::string& settings) { parse_settings(parse_json(settings)); },
      "settings_json"_a, "Raises what opening an engine with these settings would.");

  module.def(
      "expect_leaks", [] { nb::set_leak_warnings(false); },
      "A forked process leaves what it inherits as it is.");
  module.def(
      "constants",
      [] {
        nb::dict constants;
        constants["blob_alignment"] = kBlobAlignment;
        constants["default_context"] = kDefaultContext;
        constants["most_lanes"] = ReadLanes::kMost;
        constants["most_precisions"] = ExpertKey::kVariants;
        constants["quantizations"] =
            std::vector<std::string>(kQuantizations.begin(), kQuantizations.end());
        const BenchRequest bench;
        constants["request_defaults"] = std::map<std::string, uint32_t>{
            {"n_prompt", bench.n_prompt},       {"n_gen", bench.n_gen},
            {"repetitions", bench.repetitions}, {"count", kDefaultMisses},
            {"iterations", kDefaultIterations}, {"max_new_tokens", kDefaultNewTokens}};
        return constants;
      },
      "What the Python package states too.");

  module.def(
      "available_memory", [] { return available_memory(); },
      "Bytes that the machine, and the control groups of this process, have left.");
  module.def(
      "check_machine_secret", [] { machine_secret(); },
      "Raises what the engine would for the folder of this machine's secret, and makes it.");
  module.def(
      "check_packed",
      [](const std::string& path) {
        PackedFile::open(path, packed_store_key(), /*allow_direct=*/false);
      },
      "path"_a, "Raises what the engine would for this file of packed weights.");

  module.def(
      "check_manifest",
      [](const std::string& text, const std::string& file) { parse_manifest(text, file); },
      "text"_a, "file"_a, "Raises what the engine would for this bundle.json.");
}

}  // namespace moe_mobile
