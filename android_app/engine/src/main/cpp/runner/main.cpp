// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

// One process, JSON lines: a request per line on standard input, events per line on standard
// output.
#include <sys/prctl.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <iostream>
#include <optional>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/machine_secret.h"
#include "base/mutex.h"
#include "runner/line_reader.h"
#include "runner/session.h"

int main(int argc, char** argv) {
  using moe_mobile::ErrorCode;
  using nlohmann::json;
  const bool attached = argc == 2 && std::string_view(argv[1]) == "--attached";
  if (argc > 1 && !attached) {
    std::cerr << "usage: moe_runner [--attached]; docs/runner.md describes its requests\n";
    return moe_mobile::exit_code(ErrorCode::kUsage);
  }
  moe_mobile::set_state_directory(moe_mobile::default_state_directory());
  // A phone starts the dynamic loader, which would give its name to the process.
  prctl(PR_SET_NAME, "moe_runner");
  std::ios::sync_with_stdio(false);
  // Reading would flush cout, on the reader's thread and in the middle of an event.
  std::cin.tie(nullptr);
  moe_mobile::Mutex output;
  moe_mobile::Session session([&output](const json& event) {
    const moe_mobile::MutexLock lock(&output);
    // Error causes quote file names, which may not be UTF-8.
    std::cout << event.dump(-1, ' ', false, json::error_handler_t::replace) << '\n' << std::flush;
    // Stop if no one can read the output.
    if (!std::cout) std::_Exit(moe_mobile::exit_code(ErrorCode::kIo));
  });
  // The client may be on another machine and see only these streams.
  if (attached) {
    std::cout << json{{"event", "start"}, {"pid", getpid()}}.dump() << '\n' << std::flush;
  }
  std::atomic<int> exit_code{0};  // the first error's
  const auto ended_with = [&exit_code](int code) {
    int none = 0;
    exit_code.compare_exchange_strong(none, code);
  };
  const auto at_once = [&](const std::string& line) {
    if (line.empty()) return true;
    const json request = json::parse(line, nullptr, /*allow_exceptions=*/false);
    const std::optional<int> code = session.handle_at_once(request);
    if (code) ended_with(*code);
    return code.has_value();
  };
  // When the input of an attached runner ends, its client is gone. Otherwise a phone would go on
  // computing.
  moe_mobile::LineReader input(std::cin, at_once, [attached](bool busy) {
    if (attached && busy) std::_Exit(moe_mobile::exit_code(ErrorCode::kCancelled));
  });
  while (const std::optional<std::string> line = input.next()) {
    ended_with(session.handle(json::parse(*line, nullptr, /*allow_exceptions=*/false), *line));
  }
  return exit_code;
}
