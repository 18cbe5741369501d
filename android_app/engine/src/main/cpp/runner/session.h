// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "engine/engine.h"
#include "text/bundle_text.h"

namespace moe_mobile {

// The commands of moe_runner over one engine. Takes and emits JSON objects; its process reads and
// writes the lines.
//
// Thread rule: one thread calls handle(), another one handle_at_once(), at any time.
class Session {
 public:
  using Emit = std::function<void(const nlohmann::json& event)>;

  // `emit` gets every event of a request: any number of "progress" and "token", then one "result"
  // or "error". Both threads call it.
  explicit Session(Emit emit);

  // Handles one request object. `line`: its text, since the members of messages have an order that
  // `request` does not keep. Returns the exit code of its error, or 0.
  int handle(const nlohmann::json& request, const std::string& line);
  // Handles `cancel`, `resize` and `residency`, also while handle() runs, and returns the same as
  // handle(). Only counts other requests, for handle(), and returns nothing.
  std::optional<int> handle_at_once(const nlohmann::json& request);

 private:
  struct Answer {
    nlohmann::json event;
    int exit_code;
  };
  // The value of `run` as the result of the request with this id, or the error that it throws.
  Answer answer(const nlohmann::json& id, const std::function<nlohmann::json()>& run);
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
  nlohmann::json tokenize(const nlohmann::json& request);
  nlohmann::json detokenize(const nlohmann::json& request);

  nlohmann::json cancel();
  nlohmann::json resize(const nlohmann::json& request);
  nlohmann::json residency();

  // A request's prompt: its `token_ids`, or the ids of its text.
  struct Prompt {
    std::vector<uint32_t> ids;
    bool is_text;  // text or messages
    bool is_chat;  // messages
  };
  Prompt prompt(const nlohmann::json& request, bool needs_text = false);
  BundleText& text();

  Engine& engine();
  // kCancelled if a `cancel` came after the request that is being handled.
  void check_cancelled() const;
  Progress progress();

  Emit emit_;
  nlohmann::json id_;
  const std::string* line_ = nullptr;  // of the request that handle() works on
  std::unique_ptr<Engine> engine_;
  std::string bundle_;                // the folder of the open one
  std::string no_text_;               // why it has no text, else empty
  std::unique_ptr<BundleText> text_;  // read when it is first needed
  // The tokens of the conversation that the engine holds, if they are known.
  std::optional<std::vector<uint32_t>> held_;
  Mutex open_mutex_;
  Engine* open_engine_ GUARDED_BY(open_mutex_) = nullptr;  // engine_ once it is complete
  // Requests that handle() gets are counted from 1, in order.
  uint64_t current_ = 0;  // the request that handle() works on; only for its thread
  std::atomic<uint64_t> received_{0};
  std::atomic<uint64_t> finished_{0};
  std::atomic<uint64_t> cancelled_{0};  // all up to this one are cancelled
};

}  // namespace moe_mobile
