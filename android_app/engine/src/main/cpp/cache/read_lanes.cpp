// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include "cache/read_lanes.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <system_error>

#include "base/crc32c.h"
#include "base/error.h"
#include "base/file.h"

namespace moe_mobile {
namespace {

// A read that came back short goes on at a multiple of this: O_DIRECT wants alignment.
constexpr uint64_t kPage = 4096;

using Queue = std::deque<ReadRequest>;

Queue::iterator find_tag(Queue* queue, uint64_t tag) {
  return std::find_if(queue->begin(), queue->end(),
                      [tag](const ReadRequest& request) { return request.tag == tag; });
}

std::string name_of(const ReadRequest& request) {
  return request.file != nullptr ? *request.file : "";
}

// Bytes read from the file: fewer than request.length if the file ends in the padding.
uint64_t read_blob(const ReadRequest& request) {
  auto* out = static_cast<uint8_t*>(request.destination);
  uint64_t begin = 0, reached = 0;
  while (begin < request.length) {
    const size_t bytes = std::min<uint64_t>(request.length - begin, kMaxTransfer);
    const ssize_t got =
        ::pread(request.fd, out + begin, bytes, static_cast<off_t>(request.offset + begin));
    if (got < 0) {
      if (errno == EINTR) continue;
      throw_errno(name_of(request), "read");
    }
    reached = std::max(reached, begin + static_cast<uint64_t>(got));
    const uint64_t next = reached < request.length ? reached / kPage * kPage : reached;
    if (reached >= request.payload_bytes || next <= begin) break;
    begin = next;
  }
  if (reached < request.payload_bytes) {
    throw Error(ErrorCode::kBundleCorrupt, name_of(request),
                "ends at byte " + std::to_string(request.offset + reached) +
                    ", within the blob at " + std::to_string(request.offset),
                request.remedy);
  }
  return reached;
}

ReadDone perform(const ReadRequest& request) {
  ReadDone done;
  done.tag = request.tag;
  const auto start = std::chrono::steady_clock::now();
  try {
    done.bytes = read_blob(request);
    if (request.check_crc && crc32c(request.destination, request.payload_bytes) != request.crc) {
      throw Error(
          ErrorCode::kBundleCorrupt, name_of(request),
          "the blob at offset " + std::to_string(request.offset) + " does not match its checksum",
          request.remedy);
    }
    if (request.drop_cache) {
      ::posix_fadvise(request.fd, static_cast<off_t>(request.offset),
                      static_cast<off_t>(request.length), POSIX_FADV_DONTNEED);
    }
  } catch (...) {
    done.error = std::current_exception();
  }
  done.nanoseconds = static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - start)
          .count());
  return done;
}

}  // namespace

ReadLanes::ReadLanes(unsigned lanes) {
  if (lanes < 1 || lanes > kMost) {
    throw Error(ErrorCode::kUsage, Setting{"lanes"},
                "must be 1 to " + std::to_string(kMost) + ", not " + std::to_string(lanes),
                "Give a number in that range.");
  }
  // The lanes inherit the mask: signals go to the host's own threads.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  try {
    for (unsigned lane = 0; lane < lanes; ++lane) {
      threads_.emplace_back([this] { run(); });
      pthread_setname_np(threads_.back().native_handle(),
                         ("moe-read-" + std::to_string(lane)).c_str());
    }
  } catch (const std::system_error& error) {
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    join();
    throw Error(ErrorCode::kRuntime, "",
                std::string("the read lanes cannot start: ") + error.what());
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

ReadLanes::~ReadLanes() { join(); }

void ReadLanes::join() {
  {
    const MutexLock lock(&mutex_);
    stop_ = true;
  }
  work_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void ReadLanes::submit(const ReadRequest& request, ReadPriority priority) {
  if (request.destination == nullptr || request.payload_bytes > request.length) {
    throw Error(ErrorCode::kUsage, name_of(request), "a read has no room for its payload");
  }
  {
    const MutexLock lock(&mutex_);
    (priority == ReadPriority::kDemanded ? demanded_ : speculative_).push_back(request);
  }
  ++in_flight_;
  work_.notify_one();  // no system call unless a lane sleeps
}

void ReadLanes::promote(uint64_t tag) {
  const MutexLock lock(&mutex_);
  const auto found = find_tag(&speculative_, tag);
  if (found == speculative_.end()) return;
  demanded_.push_back(*found);
  speculative_.erase(found);
}

bool ReadLanes::withdraw(uint64_t tag) {
  const MutexLock lock(&mutex_);
  for (Queue* queue : {&speculative_, &demanded_}) {
    const auto found = find_tag(queue, tag);
    if (found == queue->end()) continue;
    queue->erase(found);
    --in_flight_;
    return true;
  }
  return false;
}

ReadDone ReadLanes::wait() {
  if (in_flight_ == 0) {
    throw Error(ErrorCode::kRuntime, "", "nothing is being read");
  }
  const MutexLock lock(&mutex_);
  while (done_.empty()) arrival_.wait(&mutex_);
  return take_done();
}

std::optional<ReadDone> ReadLanes::poll() {
  const MutexLock lock(&mutex_);
  if (done_.empty()) return std::nullopt;
  return take_done();
}

ReadDone ReadLanes::take_done() {
  ReadDone done = std::move(done_.front());
  done_.pop_front();
  --in_flight_;
  return done;
}

void ReadLanes::run() {
  while (const std::optional<ReadRequest> request = next_request()) {
    ReadDone done = perform(*request);
    {
      const MutexLock lock(&mutex_);
      done_.push_back(std::move(done));
    }
    // Without the lock, which the consumer takes when it wakes up. The lanes outlive this call:
    // their destructor joins this thread.
    arrival_.notify_one();
  }
}

std::optional<ReadRequest> ReadLanes::next_request() {
  const MutexLock lock(&mutex_);
  while (!stop_ && demanded_.empty() && speculative_.empty()) work_.wait(&mutex_);
  if (stop_) return std::nullopt;
  Queue& queue = demanded_.empty() ? speculative_ : demanded_;
  ReadRequest request = queue.front();
  queue.pop_front();
  return request;
}

}  // namespace moe_mobile
