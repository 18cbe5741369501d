// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#include "runner/session.h"

#include <unistd.h>

#include <algorithm>
#include <exception>
#include <filesystem>
#include <functional>
#include <map>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "base/sha256.h"
#include "engine/bench.h"
#include "engine/engine_json.h"
#include "engine/generate.h"
#include "engine/prepare.h"
#include "engine/samples.h"
#include "engine/settings_json.h"
#include "engine/time_program.h"
#include "engine/verify.h"
#include "metrics/stopwatch.h"
#include "runner/base64.h"
#include "runner/request.h"

namespace moe_mobile {

using nlohmann::json;

namespace {

// The engine reads no environment variable: the host names the system's place for temporary files.
std::string system_scratch() {
  std::error_code none;
  return std::filesystem::temp_directory_path(none).string();
}

// Only a plain value: a deeply nested one would be written back recursively.
json id_of(const json& request) {
  const bool has_id = request.is_object() && request.contains("id");
  return has_id && request["id"].is_primitive() ? request["id"] : json();
}

[[noreturn]] void no_bundle() {
  throw Error(ErrorCode::kUsage, Setting{"command"}, "no bundle is open",
              "Send an open request first.");
}

}  // namespace

Session::Session(Emit emit) : emit_(std::move(emit)) {}

int Session::handle(const json& request, const std::string& line) {
  ++current_;
  line_ = &line;
  id_ = id_of(request);
  const Answer done = answer(id_, [&] {
    check_cancelled();
    return run(required_string(request, "command"), request);
  });
  ++finished_;  // once answered, a request can no longer be cancelled
  emit_(done.event);
  return done.exit_code;
}

std::optional<int> Session::handle_at_once(const json& request) {
  const bool named = request.is_object() && request.contains("command");
  const json command = named ? request["command"] : json();
  if (command != "cancel" && command != "resize" && command != "residency") {
    ++received_;
    return std::nullopt;
  }
  const Answer done = answer(id_of(request), [&] {
    if (command == "resize") require_known(request, {"cache"});
    if (command == "resize") return resize(request);
    require_known(request, {});
    return command == "cancel" ? cancel() : residency();
  });
  emit_(done.event);
  return done.exit_code;
}

Session::Answer Session::answer(const json& id, const std::function<json()>& run) {
  try {
    json result = run();
    result["id"] = id;
    result["event"] = "result";
    return {std::move(result), 0};
  } catch (const Error& error) {
    return {error_event(id, error), exit_code(error.code())};
  } catch (const std::bad_alloc&) {
    const Error error(ErrorCode::kBudget, "", "an allocation of memory failed",
                      "Give a smaller cache budget or context.");
    return {error_event(id, error), exit_code(error.code())};
  } catch (const std::exception& failure) {
    const Error error(ErrorCode::kRuntime, "", failure.what(),
                      "This is a defect of moe-mobile; please report it.");
    return {error_event(id, error), exit_code(error.code())};
  }
}

// First mark the requests, then stop the engine: handle() checks the mark after it began to listen
// to the engine, so it notices one of the two.
json Session::cancel() {
  const uint64_t received = received_;
  const uint64_t running = received - finished_;
  cancelled_ = received;
  const MutexLock lock(&open_mutex_);
  if (open_engine_ != nullptr) open_engine_->cancel();
  return {{"cancelled", running}};
}

json Session::resize(const json& request) {
  const Budget budget = parse_budget(required_string(request, "cache"));
  const MutexLock lock(&open_mutex_);
  if (open_engine_ == nullptr) no_bundle();
  open_engine_->resize(budget);
  return {{"plan", open_engine_->info().plan}};
}

json Session::residency() {
  const MutexLock lock(&open_mutex_);
  if (open_engine_ == nullptr) no_bundle();
  return open_engine_->residency();
}

void Session::check_cancelled() const {
  if (current_ <= cancelled_) throw Error(ErrorCode::kCancelled, "", "the request was cancelled");
}

json Session::run(const std::string& command, const json& request) {
  struct Command {
    std::vector<std::string> members;
    std::function<json()> run;
  };
  const std::map<std::string, Command> commands = {
      {"prepare", {{"bundle", "packed_dir", "consume"}, [&] { return prepare(request); }}},
      {"verify", {{"bundle", "packed_dir"}, [&] { return verify(request); }}},
      {"digest", {{"paths", "sync"}, [&] { return digest(request); }}},
      {"open", {{"bundle", "settings"}, [&] { return open(request); }}},
      {"info", {{}, [&] { return info(); }}},
      {"generate",
       {{"token_ids", "text", "messages", "chat_template_kwargs", "max_new_tokens", "sampling",
         "ignore_eos", "continues"},
        [&] { return generate(request); }}},
      {"score",
       {{"token_ids", "text", "messages", "chat_template_kwargs"}, [&] { return score(request); }}},
      {"tokenize",
       {{"text", "messages", "chat_template_kwargs"}, [&] { return tokenize(request); }}},
      {"detokenize", {{"token_ids"}, [&] { return detokenize(request); }}},
      {"trace", {{"token_ids", "continues"}, [&] { return trace(request); }}},
      {"bench",
       {{"n_prompt", "n_gen", "repetitions", "warmup", "seed", "router_logits"},
        [&] { return bench(request); }}},
      {"measure_misses",
       {{"count", "seed"},
        [&] {
          return engine().measure_misses(optional_uint(request, "count", kDefaultMisses),
                                         optional_uint(request, "seed", 0),
                                         [this] { check_cancelled(); });
        }}},
      {"time_program",
       {{"path", "iterations", "threads"},
        [&] {
          return time_program(required_string(request, "path"),
                              optional_uint(request, "iterations", kDefaultIterations),
                              optional_uint(request, "threads", 0), [this] { check_cancelled(); });
        }}},
  };
  const auto found = commands.find(command);
  if (found == commands.end()) {
    std::string names;
    for (const auto& [name, unused] : commands) names += (names.empty() ? "" : ", ") + name;
    names += ", cancel, resize, residency";
    throw Error(ErrorCode::kUsage, Setting{"command"}, "'" + command + "' is not a command",
                "Use one of " + names + ".");
  }
  require_known(request, found->second.members);
  return found->second.run();
}

Engine& Session::engine() {
  if (!engine_) no_bundle();
  return *engine_;
}

Progress Session::progress() {
  return [this](const char* stage, uint64_t done, uint64_t total) {
    check_cancelled();
    emit_({{"id", id_}, {"event", "progress"}, {"stage", stage}, {"done", done}, {"total", total}});
  };
}

json Session::prepare(const json& request) {
  PrepareOptions options;
  options.packed_dir = optional_string(request, "packed_dir", "");
  options.consume = optional_bool(request, "consume", false);
  const PrepareResult result =
      moe_mobile::prepare(Bundle::open(required_string(request, "bundle")), options, progress());
  return {{"packed_dir", result.directory},          {"experts", result.experts},
          {"bytes_written", result.bytes_written},   {"already_prepared", result.already_prepared},
          {"shards_deleted", result.shards_deleted}, {"bytes_deleted", result.bytes_deleted}};
}

json Session::verify(const json& request) {
  return verify_bundle(Bundle::open(required_string(request, "bundle")),
                       optional_string(request, "packed_dir", ""), progress());
}

json Session::digest(const json& request) {
  const std::vector<std::string> paths = required_strings(request, "paths");
  const bool sync = optional_bool(request, "sync", false);
  json files = json::array();
  for (const std::string& path : paths) {
    const UniqueFd fd = open_read(path);
    const uint64_t bytes = file_size(fd.get(), path);
    files.push_back({{"bytes", bytes}, {"sha256", to_hex(sha256_file(fd.get(), 0, bytes, path))}});
    if (sync && fsync(fd.get()) != 0) throw_errno(path, "write through to the disk");
    progress()("digest", files.size(), paths.size());
  }
  return {{"files", files}};
}

json Session::info() {
  json result = engine().info();
  result["pid"] = getpid();
  result["text"] = no_text_.empty();
  result["text_note"] = no_text_;
  return result;
}

json Session::open(const json& request) {
  const std::string bundle = required_string(request, "bundle");
  EngineSettings settings =
      parse_settings(request.contains("settings") ? request["settings"] : json::object());
  if (settings.scratch_dir.empty()) settings.scratch_dir = system_scratch();
  {
    const MutexLock lock(&open_mutex_);
    open_engine_ = nullptr;
  }
  engine_.reset();  // its memory must be free before the next one is planned
  text_.reset();
  Stopwatch watch;
  engine_ = Engine::open(bundle, settings, progress(), [this](const MemoryPlan& plan) {
    emit_({{"id", id_}, {"event", "plan"}, {"plan", plan}});
  });
  bundle_ = bundle;
  no_text_ = BundleText::missing(Bundle::open(bundle));
  held_.emplace();
  {
    const MutexLock lock(&open_mutex_);
    open_engine_ = engine_.get();
  }
  json result = info();
  result["load_ms"] = static_cast<double>(watch.lap()) / 1e6;
  return result;
}

BundleText& Session::text() {
  engine();  // no bundle, no text
  if (!text_) text_ = BundleText::open(Bundle::open(bundle_));
  return *text_;
}

Session::Prompt Session::prompt(const json& request, bool needs_text) {
  const auto has = [&](const char* name) {
    return request.contains(name) && !request[name].is_null();
  };
  const bool is_chat = has("messages");
  if (int{has("token_ids")} + int{has("text")} + int{is_chat} != 1) {
    const char* names = needs_text ? "`text` and `messages`" : "`token_ids`, `text` and `messages`";
    throw Error(ErrorCode::kUsage, Setting{needs_text ? "text" : "token_ids"},
                std::string("exactly one of ") + names + " is needed",
                "docs/runner.md lists the requests.");
  }
  if (has("chat_template_kwargs") && !is_chat)
    throw Error(ErrorCode::kUsage, Setting{"chat_template_kwargs"}, "it is for messages",
                "Leave it out, or send `messages`.");
  if (has("token_ids")) return {token_ids(request), false, false};
  if (!is_chat) required_string(request, "text");
  if (is_chat && !request["messages"].is_array())
    throw Error(ErrorCode::kUsage, Setting{"messages"}, "it must be an array of messages",
                "docs/runner.md lists the requests.");
  return {text().encode(*line_), true, is_chat};
}

json Session::tokenize(const json& request) {
  json result = {{"token_ids", prompt(request, /*needs_text=*/true).ids}};
  result["text"] = text().render(*line_);
  return result;
}

json Session::detokenize(const json& request) {
  return {{"text", text().decode(token_ids(request))}};
}

json Session::generate(const json& request) {
  const Prompt prompt = this->prompt(request);
  bool continues = optional_bool(request, "continues", false);
  if (continues && prompt.is_text)
    throw Error(ErrorCode::kUsage, Setting{"continues"}, "it is for `token_ids`",
                "Leave it out: messages that continue the conversation are found by themselves.");
  const std::unique_ptr<TextStream> stream = prompt.is_text ? text().stream(prompt.ids) : nullptr;
  const SamplingSettings sampling =
      parse_sampling(request.contains("sampling") ? request["sampling"] : json::object());
  const uint32_t max_new_tokens = optional_uint(request, "max_new_tokens", kDefaultNewTokens);
  const bool ignore_eos = optional_bool(request, "ignore_eos", false);

  // What the engine holds, and then what it is given. It is not known while the engine works.
  std::optional<std::vector<uint32_t>> held = std::exchange(held_, std::nullopt);
  Span<const uint32_t> unread(prompt.ids);
  if (prompt.is_chat && held && !held->empty() && held->size() < prompt.ids.size() &&
      std::equal(held->begin(), held->end(), prompt.ids.begin())) {
    continues = true;
    unread = {unread.data() + held->size(), unread.size() - held->size()};
  }
  if (!continues) held.emplace();
  if (held) held->insert(held->end(), unread.begin(), unread.end());
  const auto keep = [&] {
    if (!held || engine().position() > held->size()) return;
    held->resize(engine().position());
    held_ = std::move(held);
  };

  json tokens = json::array();
  std::string whole;
  try {
    if (continues)
      engine().begin_turn();
    else
      engine().reset();
    Generator generator(&engine(), unread, max_new_tokens, sampling, ignore_eos, progress());
    while (const auto token = generator.next()) {
      if (held) held->push_back(*token);
      check_cancelled();
      tokens.push_back(*token);
      json event = {{"id", id_}, {"event", "token"}, {"token", *token}};
      if (stream) {
        const std::string piece = stream->step(*token);
        event["text"] = piece;
        whole += piece;
      }
      emit_(event);
    }
    json result = {{"token_ids", tokens},
                   {"stop", generator.stop()},
                   {"position", engine().position()},
                   {"stats", engine().stats()}};
    if (stream) {
      result["text"] = whole + stream->finish();
      result["prompt_tokens"] = prompt.ids.size();
    }
    keep();
    return result;
  } catch (...) {
    keep();
    throw;
  }
}

json Session::score(const json& request) {
  const Prompt prompt = this->prompt(request);
  const std::vector<uint32_t>& tokens = prompt.ids;
  held_.reset();
  engine().reset();
  json values = json::array();
  moe_mobile::score(&engine(), tokens, [&](size_t index, const float* logits) {
    check_cancelled();
    if (index + 1 < tokens.size())
      values.push_back(log_probability(logits, engine().model().vocab_size, tokens[index + 1]));
    if (index % 16 == 15) progress()("score", index + 1, tokens.size());
  });
  json result = {{"log_probabilities", values}, {"stats", engine().stats()}};
  if (prompt.is_text) result["token_ids"] = tokens;
  return result;
}

json Session::trace(const json& request) {
  const std::vector<uint32_t> tokens = token_ids(request);
  held_.reset();
  if (!optional_bool(request, "continues", false)) engine().reset();
  return {{"router_logits", base64(engine().trace(tokens, progress()))}};
}

json Session::bench(const json& request) {
  BenchRequest bench;
  bench.n_prompt = optional_uint(request, "n_prompt", bench.n_prompt);
  bench.n_gen = optional_uint(request, "n_gen", bench.n_gen);
  bench.repetitions = optional_uint(request, "repetitions", bench.repetitions);
  bench.warmup = optional_bool(request, "warmup", true);
  bench.seed = optional_uint(request, "seed", 0);
  bench.router_logits = optional_floats(request, "router_logits");
  const Cancellation cancellation(&engine());
  check_cancelled();
  held_.reset();
  return {{"samples", run_bench(&engine(), bench, cancellation, progress())}};
}

}  // namespace moe_mobile
