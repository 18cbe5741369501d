// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <functional>
#include <memory>
#include <nlohmann/json.hpp>

#include "engine/engine.h"

namespace moe_mobile {

// The commands of moe_runner over one engine. Speaks JSON objects; the process around it does the
// lines.
class Session {
 public:
  using Emit = std::function<void(const nlohmann::json& event)>;

  // `emit` gets every event of a request: any number of "progress" and "token", then one "result"
  // or "error".
  explicit Session(Emit emit);

  // Handles one request object. Returns the exit code of its error, or 0.
  int handle(const nlohmann::json& request);

 private:
  nlohmann::json run(const std::string& command, const nlohmann::json& request);
  nlohmann::json prepare(const nlohmann::json& request);
  nlohmann::json verify(const nlohmann::json& request);
  nlohmann::json digest(const nlohmann::json& request);
  nlohmann::json open(const nlohmann::json& request);
  nlohmann::json info();
  nlohmann::json generate(const nlohmann::json& request);
  nlohmann::json score(const nlohmann::json& request);
  nlohmann::json trace(const nlohmann::json& request);
  nlohmann::json bench(const nlohmann::json& request);

  Engine& engine();
  Progress progress();

  Emit emit_;
  nlohmann::json id_;
  std::unique_ptr<Engine> engine_;
};

}  // namespace moe_mobile
