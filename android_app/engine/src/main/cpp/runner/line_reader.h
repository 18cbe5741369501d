// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <istream>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

namespace moe_mobile {

// Reads the lines of a stream on its own thread, so that the end of the stream is noticed while the
// last line is being worked on.
class LineReader {
 public:
  using AtOnce = std::function<bool(const std::string& line)>;

  // Each line goes to `at_once` first, on the reading thread. If that returns true, the line is
  // done and next() does not return it. `ended` is called on that thread at the end of the stream.
  // Its argument: whether a line is still being worked on or waits for next().
  LineReader(std::istream& stream, AtOnce at_once, std::function<void(bool busy)> ended);
  ~LineReader();
  LineReader(const LineReader&) = delete;
  LineReader& operator=(const LineReader&) = delete;

  // The next line; the caller is done with the one before. Nothing at the end.
  std::optional<std::string> next();

 private:
  void read(std::istream& stream, const AtOnce& at_once,
            const std::function<void(bool busy)>& ended);

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::string> lines_;
  bool busy_ = false;
  bool ended_ = false;
  std::thread thread_;
};

}  // namespace moe_mobile
