// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstring>
#include <thread>

#include "decoder/attention.h"
#include "decoder/attention_case.h"

namespace moe_mobile {
namespace {

// Splits into `threads` equal ranges, each on its own thread.
ParallelFor threads_for(size_t threads) {
  return [threads](size_t n, const std::function<void(size_t, size_t)>& body) {
    std::vector<std::thread> running;
    for (size_t i = 0; i < threads; ++i) {
      const size_t begin = n * i / threads, end = n * (i + 1) / threads;
      if (begin < end) running.emplace_back([&body, begin, end] { body(begin, end); });
    }
    for (std::thread& thread : running) thread.join();
  };
}

TEST(AttentionThreads, NeverChangeTheResult) {
  for (const uint32_t group : {1u, 3u, 6u}) {
    testing::AttentionCase sample(KvShape{3, 40, 130, false}, group, group);
    const size_t row = sample.row_size();
    std::vector<float> serial(130 * row);
    attend_batch(sample.call(0), 0, 130, sample.q.data(), serial.data());
    for (const size_t threads : {2, 3, 8, 31}) {
      std::vector<float> parallel(serial.size());
      attend_batch(sample.call(0), 0, 130, sample.q.data(), parallel.data(), threads_for(threads));
      ASSERT_EQ(std::memcmp(serial.data(), parallel.data(), 4 * serial.size()), 0);
      testing::attend(sample.call(0), 129, &sample.q[129 * row], parallel.data(),
                      threads_for(threads));
      ASSERT_EQ(std::memcmp(&serial[129 * row], parallel.data(), 4 * row), 0);
    }
  }
}

}  // namespace
}  // namespace moe_mobile
