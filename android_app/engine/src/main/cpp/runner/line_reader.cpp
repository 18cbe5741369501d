// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#include "runner/line_reader.h"

#include <utility>

namespace moe_mobile {

LineReader::LineReader(std::istream& stream, AtOnce at_once, std::function<void(bool busy)> ended)
    : thread_([this, &stream, at_once = std::move(at_once), ended = std::move(ended)] {
        read(stream, at_once, ended);
      }) {}

LineReader::~LineReader() { thread_.join(); }

std::optional<std::string> LineReader::next() {
  const MutexLock lock(&mutex_);
  busy_ = false;
  while (!ended_ && lines_.empty()) changed_.wait(&mutex_);
  if (lines_.empty()) return std::nullopt;
  std::string line = std::move(lines_.front());
  lines_.pop_front();
  busy_ = true;
  return line;
}

void LineReader::read(std::istream& stream, const AtOnce& at_once,
                      const std::function<void(bool busy)>& ended) {
  for (std::string line; std::getline(stream, line);) {
    if (at_once(line)) continue;
    const MutexLock lock(&mutex_);
    lines_.push_back(std::move(line));
    changed_.notify_one();
  }
  const MutexLock lock(&mutex_);
  ended(busy_ || !lines_.empty());
  ended_ = true;
  changed_.notify_one();
}

}  // namespace moe_mobile
