// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/mutex.h"

namespace moe_mobile {

struct ReadRequest {
  int fd = -1;
  uint64_t offset = 0;
  uint64_t length = 0;  // to read; for O_DIRECT a multiple of the block size (pages do)
  // Room for `length` bytes, page aligned for O_DIRECT. The lane writes it until the read is done.
  void* destination = nullptr;
  uint64_t tag = 0;            // the caller's, handed back in ReadDone
  uint64_t payload_bytes = 0;  // the part of `length` that must exist; the rest is padding
  uint32_t crc = 0;            // CRC-32C of the payload
  bool check_crc = false;
  bool drop_cache = false;            // after a buffered read, ask the kernel to forget the pages
  const std::string* file = nullptr;  // names the file in errors; outlives the request
  const char* remedy = "";            // of damage, for errors
};

struct ReadDone {
  uint64_t tag = 0;
  uint64_t bytes = 0;        // read from the file
  uint64_t nanoseconds = 0;  // from the lane taking the request to the bytes being checked
  std::exception_ptr error;  // an Error: kIo, or kBundleCorrupt for a short file or a wrong CRC
};

enum class ReadPriority {
  kDemanded,     // a token waits for it
  kSpeculative,  // it may be useful later: begins only when no demanded read waits
};

// Threads that read blobs from flash. Reads of one priority begin in the order they were submitted;
// completions come in order of arrival. Only one thread at a time, the consumer, calls the members.
//
// A read that has not begun can still be promoted or withdrawn. One that has begun ends as any
// other, since pread() cannot be stopped.
class ReadLanes {
 public:
  static constexpr unsigned kMost = 16;

  // 1 to kMost lanes (kUsage otherwise).
  explicit ReadLanes(unsigned lanes);
  ReadLanes(const ReadLanes&) = delete;
  ReadLanes& operator=(const ReadLanes&) = delete;
  // Finishes the reads that have begun and drops the others.
  ~ReadLanes();

  unsigned lanes() const { return static_cast<unsigned>(threads_.size()); }
  void submit(const ReadRequest& request, ReadPriority priority = ReadPriority::kDemanded)
      EXCLUDES(mutex_);
  // A speculative read with this tag that has not begun becomes the last of the demanded ones. If
  // it has begun, nothing changes. REQUIRES: the tags in flight are distinct.
  void promote(uint64_t tag) EXCLUDES(mutex_);
  // Takes back a read that has not begun: returns true, and wait() will not return it. False if it
  // has begun: wait() returns it as usual.
  // REQUIRES: the tags in flight are distinct.
  bool withdraw(uint64_t tag) EXCLUDES(mutex_);
  // Waits for the next completion. kRuntime if nothing is in flight.
  ReadDone wait() EXCLUDES(mutex_);
  // The next completion if there is one; does not wait.
  std::optional<ReadDone> poll() EXCLUDES(mutex_);
  // Reads submitted and neither returned nor withdrawn.
  size_t in_flight() const { return in_flight_; }

 private:
  // The loop of each lane's thread.
  void run() EXCLUDES(mutex_);
  // Blocks until there is work; returns nothing once the lanes stop.
  std::optional<ReadRequest> next_request() EXCLUDES(mutex_);
  void join() EXCLUDES(mutex_);
  ReadDone take_done() REQUIRES(mutex_);

  Mutex mutex_;
  CondVar work_;
  CondVar arrival_;
  // Reads that have not begun.
  std::deque<ReadRequest> demanded_ GUARDED_BY(mutex_);
  std::deque<ReadRequest> speculative_ GUARDED_BY(mutex_);
  std::deque<ReadDone> done_ GUARDED_BY(mutex_);
  bool stop_ GUARDED_BY(mutex_) = false;
  size_t in_flight_ = 0;  // the consumer's
  std::vector<std::thread> threads_;
};

}  // namespace moe_mobile
