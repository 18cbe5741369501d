// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <array>
#include <cstdint>
#include <unordered_set>
#include <vector>

#include "base/span.h"
#include "cache/expert_key.h"

namespace moe_mobile {

// Decides what stays in memory while a prompt goes through the layers.
//
// A prompt goes through layer 0 in batches of tokens, then through layer 1, and so on. One batch
// can use nearly all experts of a layer, so a plain LRU would do badly in two ways: the experts
// of batch 1 would be gone when batch 2 of the same layer asks for them, and after the last layer
// memory would hold experts of the last layers only, though decoding needs all layers. So the
// plan sorts all that is in memory and not used by the running batch into four classes:
//
//   passed   used by this prompt in a layer that is done, and not among that layer's most recent
//   stale    in memory before the prompt, not used by it yet
//   kept     the most recent of a layer that is done; decoding likely wants them
//   current  used by earlier batches of the running layer; its later batches likely want them
//
// When a batch needs room, experts are given up in this order, each class from its oldest. If
// that is not enough, experts of the batch itself only pass through: they leave right after they
// ran, the least recently used first.
//
// The last batch of a layer settles what the layer keeps: its share of memory (places / layers),
// the most recent first; that is what decoding token by token with LRU would have kept if all
// layers got equal shares. These become `kept`, the others `passed`. Experts of this batch beyond
// the share give way before anything stale is given up.
//
// How much room is enough? First, all that stays after the batch must fit. Second, some places
// must be free for the reads of this batch, or its experts would come in one by one: kStreaming,
// but at most a quarter of memory, and no more than are missing.
//
// All is decided before the first read and knows only numbers and keys, so neither the number of
// lanes nor the order of arrival has any influence.
class PrefillPlan {
 public:
  // Enough to read ahead with any number of lanes.
  static constexpr size_t kStreaming = 8;

  // For memory that holds `places` experts of a model with `moe_layers` layers of experts.
  // REQUIRES: places > 0, moe_layers > 0.
  PrefillPlan(size_t places, size_t moe_layers);

  // Memory holds `places` experts from now on. Returns the experts that are given up for that.
  // REQUIRES: places > 0; between two batches.
  std::vector<ExpertKey> resize(size_t places);
  // A prompt begins. `in_memory`: all that is there, the least recent first.
  void begin(Span<const ExpertKey> in_memory);

  struct Batch {
    std::vector<ExpertKey> given_up;  // leave before the first read
    size_t passing = 0;  // so many of the batch's experts, from the first, leave once they ran
  };
  // The next batch of a layer uses `experts`, distinct, the least recently used first. All batches
  // of a layer come before the next layer's first. Afterwards the plan takes all of the batch that
  // does not pass for being in memory.
  Batch next(Span<const ExpertKey> experts, bool last_of_layer);

 private:
  enum Class { kPassed, kStale, kKept, kCurrent };
  static constexpr size_t kClasses = 4;

  const size_t moe_layers_;
  size_t places_;
  size_t share_;  // of a layer
  std::unordered_set<ExpertKey> in_memory_;
  std::array<std::vector<ExpertKey>, kClasses> classes_;
};

}  // namespace moe_mobile
