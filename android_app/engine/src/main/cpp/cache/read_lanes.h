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
  uint64_t payload_bytes = 0;  // of `length`, the ones that must be there; the rest is padding
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

// Threads that read blobs from flash; completions come in order of arrival. Only one thread at a
// time, the consumer, calls the members.
class ReadLanes {
 public:
  // 1 to 16 lanes (kUsage otherwise).
  explicit ReadLanes(unsigned lanes);
  ReadLanes(const ReadLanes&) = delete;
  ReadLanes& operator=(const ReadLanes&) = delete;
  // Finishes the reads that are under way, forgets those not begun.
  ~ReadLanes();

  unsigned lanes() const { return static_cast<unsigned>(threads_.size()); }
  void submit(const ReadRequest& request);
  // Blocks for the next completion. kRuntime if nothing is in flight.
  ReadDone wait();
  // Submitted and not yet handed back.
  size_t in_flight() const { return in_flight_; }

 private:
  // What each lane's thread does.
  void run() EXCLUDES(mutex_);
  // Blocks for work; nothing once the lanes stop.
  std::optional<ReadRequest> next_request() EXCLUDES(mutex_);
  void join() EXCLUDES(mutex_);

  Mutex mutex_;
  CondVar work_;
  CondVar arrival_;
  std::deque<ReadRequest> queue_ GUARDED_BY(mutex_);
  std::deque<ReadDone> done_ GUARDED_BY(mutex_);
  bool stop_ GUARDED_BY(mutex_) = false;
  size_t in_flight_ = 0;  // the consumer's
  std::vector<std::thread> threads_;
};

}  // namespace moe_mobile
