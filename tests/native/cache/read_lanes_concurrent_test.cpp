// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <gtest/gtest.h>
#include <pthread.h>

#include <cstring>
#include <functional>
#include <random>
#include <set>

#include "base/crc32c.h"
#include "base/expect_error.h"
#include "base/file.h"
#include "base/temporary_folder.h"
#include "cache/read_lanes.h"

namespace moe_mobile {
namespace {

using testing::TemporaryFolder;

std::string random_text(size_t bytes, unsigned seed) {
  std::mt19937 random(seed);
  std::string text(bytes, '\0');
  for (char& c : text) c = static_cast<char>(random());
  return text;
}

// A file of blobs, each at a multiple of 16 KiB.
class ReadLanesTest : public ::testing::Test {
 protected:
  static constexpr size_t kBlobs = 24;

  void SetUp() override {
    std::mt19937 random(1);
    for (size_t i = 0; i < kBlobs; ++i) {
      blobs_.push_back(random_text(1 + random() % 50000, static_cast<unsigned>(i)));
      offsets_.push_back(content_.size());
      content_ += blobs_.back();
      content_.resize(align_up(content_.size(), kBlobAlignment), '\0');
    }
    path_ = folder_.file("store");
    testing::write_file(path_, content_);
    fd_ = open_read(path_);
  }

  ReadRequest request(size_t i, AlignedBuffer* into) {
    *into = AlignedBuffer(align_up(blobs_[i].size(), kBlobAlignment));
    ReadRequest r;
    r.fd = fd_.get();
    r.offset = offsets_[i];
    r.length = into->size();
    r.destination = into->data();
    r.tag = i;
    r.payload_bytes = blobs_[i].size();
    r.crc = crc32c(blobs_[i].data(), blobs_[i].size());
    r.check_crc = true;
    r.file = &path_;
    return r;
  }

  bool matches(size_t i, const AlignedBuffer& buffer) const {
    return std::memcmp(buffer.data(), blobs_[i].data(), blobs_[i].size()) == 0;
  }

  TemporaryFolder folder_;
  std::string path_, content_;
  std::vector<std::string> blobs_;
  std::vector<uint64_t> offsets_;
  UniqueFd fd_;
};

TEST_F(ReadLanesTest, ReadsEverythingWithAnyNumberOfLanes) {
  for (const unsigned lanes : {1u, 2u, 4u, 16u}) {
    ReadLanes reader(lanes);
    EXPECT_EQ(reader.lanes(), lanes);
    std::vector<AlignedBuffer> buffers(kBlobs);
    std::mt19937 random(lanes);
    for (int round = 0; round < 20; ++round) {
      size_t submitted = 0, received = 0;
      std::set<uint64_t> seen;
      while (received < kBlobs) {
        if (submitted < kBlobs && random() % 3 != 0) {
          ReadRequest r = request(submitted, &buffers[submitted]);
          r.drop_cache = random() % 4 == 0;
          reader.submit(r);
          ++submitted;
          continue;
        }
        if (reader.in_flight() == 0) continue;
        const ReadDone done = reader.wait();
        ++received;
        ASSERT_EQ(done.error, nullptr);
        ASSERT_TRUE(seen.insert(done.tag).second);
        ASSERT_TRUE(matches(done.tag, buffers[done.tag]));
        ASSERT_EQ(done.bytes, buffers[done.tag].size());
        ASSERT_GT(done.nanoseconds, 0u);
        ASSERT_EQ(reader.in_flight(), submitted - received);
      }
    }
  }
}

TEST_F(ReadLanesTest, ReadsDirectly) {
  UniqueFd direct;
  try {
    direct = open_read(path_, true);
  } catch (const Error&) {
    GTEST_SKIP() << "no O_DIRECT here";
  }
  fd_ = std::move(direct);
  ReadLanes reader(2);
  std::vector<AlignedBuffer> buffers(kBlobs);
  for (size_t i = 0; i < kBlobs; ++i) reader.submit(request(i, &buffers[i]));
  for (size_t i = 0; i < kBlobs; ++i) {
    const ReadDone done = reader.wait();
    ASSERT_EQ(done.error, nullptr);
    EXPECT_TRUE(matches(done.tag, buffers[done.tag]));
  }
}

Error error_of(const ReadDone& done) {
  return testing::error_of([&] {
    if (done.error) std::rethrow_exception(done.error);
  });
}

TEST_F(ReadLanesTest, ReportsWrongBytesShortFilesAndFailures) {
  ReadLanes reader(2);
  AlignedBuffer buffer;

  ReadRequest wrong = request(3, &buffer);
  wrong.crc ^= 1;
  reader.submit(wrong);
  const Error corrupt = error_of(reader.wait());
  EXPECT_EQ(corrupt.code(), ErrorCode::kBundleCorrupt);
  EXPECT_EQ(corrupt.file(), path_);
  EXPECT_TRUE(testing::contains(corrupt.what(), "offset " + std::to_string(offsets_[3])));
  wrong.check_crc = false;  // trusted after its first read
  reader.submit(wrong);
  EXPECT_EQ(reader.wait().error, nullptr);

  ReadRequest beyond = request(kBlobs - 1, &buffer);
  beyond.offset += kBlobAlignment * 8;
  reader.submit(beyond);
  EXPECT_EQ(error_of(reader.wait()).code(), ErrorCode::kBundleCorrupt);

  ReadRequest closed = request(0, &buffer);
  closed.fd = -1;
  reader.submit(closed);
  const ReadDone failed = reader.wait();
  EXPECT_EQ(error_of(failed).code(), ErrorCode::kIo);
  EXPECT_EQ(failed.tag, 0u);

  ReadRequest invalid = request(0, &buffer);
  invalid.payload_bytes = invalid.length + 1;
  EXPECT_ERROR(reader.submit(invalid), ErrorCode::kUsage, "room");
  EXPECT_EQ(reader.in_flight(), 0u);
  EXPECT_ERROR(reader.wait(), ErrorCode::kRuntime, "nothing");
}

// The padding of the last blob may be missing; its payload may not.
TEST_F(ReadLanesTest, AFileMayEndInThePadding) {
  const size_t last = kBlobs - 1;
  const uint64_t payload_end = offsets_[last] + blobs_[last].size();
  for (const bool direct : {false, true}) {
    for (const int missing : {0, 1}) {
      testing::write_file(path_, content_.substr(0, payload_end - missing));
      try {
        fd_ = open_read(path_, direct);
      } catch (const Error&) {
        continue;  // no O_DIRECT here
      }
      ReadLanes reader(1);
      AlignedBuffer buffer;
      reader.submit(request(last, &buffer));
      const ReadDone done = reader.wait();
      if (missing == 0) {
        ASSERT_EQ(done.error, nullptr);
        EXPECT_EQ(done.bytes, blobs_[last].size());
        EXPECT_TRUE(matches(last, buffer));
      } else {
        EXPECT_EQ(error_of(done).code(), ErrorCode::kBundleCorrupt);
        EXPECT_TRUE(testing::contains(error_of(done).what(), "within the blob"));
      }
    }
  }
}

TEST_F(ReadLanesTest, StopsWithReadsUnderWay) {
  for (int round = 0; round < 30; ++round) {
    std::vector<AlignedBuffer> buffers(kBlobs);
    ReadLanes reader(3);
    for (size_t i = 0; i < kBlobs; ++i) reader.submit(request(i, &buffers[i]));
    for (int taken = round % 4; taken > 0; --taken) reader.wait();
  }
}

// One lane, and a file so large that it is busy for a while.
class BusyLaneTest : public ::testing::Test {
 protected:
  static constexpr size_t kBytes = size_t{8} << 20;
  static constexpr uint64_t kBlocker = 100;

  void SetUp() override {
    path_ = folder_.file("large");
    testing::write_file(path_, std::string(kBytes, 'x'));
    fd_ = open_read(path_);
    memory_ = AlignedBuffer(kBytes);
    for (AlignedBuffer& buffer : small_) buffer = AlignedBuffer(kBlobAlignment);
  }
  // Calls `steps` while the lane reads the large file, from beginning to end. On a machine where
  // that takes more than one attempt, the steps are repeated.
  void while_busy(const std::function<void()>& steps) {
    for (int attempt = 0; attempt < 50; ++attempt) {
      lanes_.submit(request(kBlocker, kBytes, memory_.data()));
      steps();
      if (!lanes_.poll().has_value()) return;
      rest();
    }
    FAIL() << "the lane was never busy for long enough";
  }
  // Tags 0 to 3.
  void submit(uint64_t tag, ReadPriority priority) {
    lanes_.submit(request(tag, kBlobAlignment, small_[tag].data()), priority);
  }
  std::vector<uint64_t> rest() {
    std::vector<uint64_t> tags;
    while (lanes_.in_flight() > 0) {
      const uint64_t tag = lanes_.wait().tag;
      if (tag != kBlocker) tags.push_back(tag);
    }
    return tags;
  }

 private:
  ReadRequest request(uint64_t tag, size_t bytes, void* destination) const {
    ReadRequest r;
    r.fd = fd_.get();
    r.length = r.payload_bytes = bytes;
    r.destination = destination;
    r.tag = tag;
    r.file = &path_;
    return r;
  }

  TemporaryFolder folder_;
  std::string path_;
  UniqueFd fd_;
  AlignedBuffer memory_;
  AlignedBuffer small_[4];

 protected:
  ReadLanes lanes_{1};  // last: it ends before the memory that it writes to
};

TEST_F(BusyLaneTest, DemandedReadsPassSpeculativeOnes) {
  while_busy([&] {
    submit(0, ReadPriority::kSpeculative);
    submit(1, ReadPriority::kSpeculative);
    submit(2, ReadPriority::kDemanded);
    submit(3, ReadPriority::kDemanded);
  });
  EXPECT_EQ(rest(), (std::vector<uint64_t>{2, 3, 0, 1}));
}

TEST_F(BusyLaneTest, APromotedReadIsTheLastOfTheDemanded) {
  while_busy([&] {
    submit(0, ReadPriority::kSpeculative);
    submit(1, ReadPriority::kSpeculative);
    submit(2, ReadPriority::kDemanded);
    lanes_.promote(1);
    lanes_.promote(kBlocker);  // nothing to do
    submit(3, ReadPriority::kDemanded);
  });
  EXPECT_EQ(rest(), (std::vector<uint64_t>{2, 1, 3, 0}));
}

TEST_F(BusyLaneTest, OnlyReadsThatHaveNotBegunAreWithdrawn) {
  bool speculative = false, demanded = false;
  while_busy([&] {
    submit(0, ReadPriority::kSpeculative);
    submit(1, ReadPriority::kDemanded);
    submit(2, ReadPriority::kSpeculative);
    speculative = lanes_.withdraw(0);
    demanded = lanes_.withdraw(1);
  });
  EXPECT_TRUE(speculative);
  EXPECT_TRUE(demanded);
  EXPECT_FALSE(lanes_.withdraw(0));
  EXPECT_EQ(lanes_.in_flight(), 2u);
  EXPECT_EQ(rest(), (std::vector<uint64_t>{2}));
  EXPECT_FALSE(lanes_.withdraw(2));
}

TEST_F(ReadLanesTest, OnlyWithdrawnReadsNeverArrive) {
  for (unsigned seed = 0; seed < 40; ++seed) {
    std::mt19937 random(seed);
    ReadLanes reader(1 + random() % 3);
    std::vector<AlignedBuffer> buffers(kBlobs);
    std::set<uint64_t> expected, seen;
    const auto take = [&](const ReadDone& done) {
      ASSERT_EQ(done.error, nullptr);
      ASSERT_TRUE(seen.insert(done.tag).second);
      ASSERT_TRUE(matches(done.tag, buffers[done.tag]));
    };
    for (size_t i = 0; i < kBlobs; ++i) {
      reader.submit(request(i, &buffers[i]),
                    random() % 3 == 0 ? ReadPriority::kDemanded : ReadPriority::kSpeculative);
      expected.insert(i);
      const size_t other = random() % (i + 1);
      if (random() % 2 == 0) reader.promote(other);
      if (random() % 2 == 0 && reader.withdraw(other)) expected.erase(other);
      if (random() % 2 == 0)
        if (const std::optional<ReadDone> done = reader.poll()) take(*done);
    }
    while (reader.in_flight() > 0) take(reader.wait());
    ASSERT_EQ(seen, expected);
    ASSERT_FALSE(reader.poll().has_value());
  }
}

TEST(ReadLanes, RefusesAnAbsurdNumberOfLanes) {
  EXPECT_ERROR(ReadLanes(0), ErrorCode::kUsage, "1 to 16");
  EXPECT_ERROR(ReadLanes(17), ErrorCode::kUsage, "1 to 16");
}

}  // namespace
}  // namespace moe_mobile
