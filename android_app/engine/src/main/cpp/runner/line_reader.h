// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <deque>
#include <functional>
#include <istream>
#include <optional>
#include <string>
#include <thread>

#include "base/mutex.h"

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
  std::optional<std::string> next() EXCLUDES(mutex_);

 private:
  void read(std::istream& stream, const AtOnce& at_once,
            const std::function<void(bool busy)>& ended) EXCLUDES(mutex_);

  Mutex mutex_;
  CondVar changed_;
  std::deque<std::string> lines_ GUARDED_BY(mutex_);
  bool busy_ GUARDED_BY(mutex_) = false;
  bool ended_ GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace moe_mobile
