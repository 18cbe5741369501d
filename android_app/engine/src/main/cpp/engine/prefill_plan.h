// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <array>
#include <unordered_set>
#include <vector>

#include "base/span.h"
#include "cache/expert_key.h"

namespace moe_mobile {

// Decides what stays in memory while a prompt goes through the layers.
//
// A prompt goes through layer 0 in batches of tokens, then through layer 1, and so on. One batch
// can use nearly all experts of a layer, so a plain LRU would do badly in two ways: the experts of
// batch 1 would be gone when batch 2 of the same layer asks for them, and after the last layer
// memory would hold experts of the last layers only, though decoding needs all layers. So the plan
// sorts the experts that are in memory and not used by the running batch into four classes:
//
//   passed   used by this prompt in a layer that is done, and not among that layer's most recent
//   stale    in memory before the prompt, not used by it yet
//   kept     the most recent of a layer that is done; decoding likely wants them
//   current  used by earlier batches of the running layer; its later batches likely want them
//
// When a batch needs room, experts are given up in this order, each class from its oldest. If that
// is not enough, experts of the batch itself only pass through: they leave as soon as they have
// run, the least recently used first.
//
// The last batch of a layer decides what the layer keeps: its share of memory (places / layers),
// the most recent first. Decoding token by token with LRU would have kept the same if all layers
// got equal shares. These become `kept`, the others `passed`. Experts of this batch beyond the
// share leave before any stale expert is given up.
//
// How much room is enough? First, all experts that stay after the batch must fit. Second, some
// places must be free for the reads of this batch, or its experts would be read one by one:
// kStreaming places, but at most a quarter of memory, and no more than experts are missing.
//
// Everything is decided before the first read, from numbers and keys alone, so neither the number
// of lanes nor the order of arrival has any influence.
class PrefillPlan {
 public:
  // Enough to read ahead with any number of lanes.
  static constexpr size_t kStreaming = 8;

  // Plans memory for `places` experts of a model with `moe_layers` layers with experts.
  // REQUIRES: places > 0, moe_layers > 0.
  PrefillPlan(size_t places, size_t moe_layers);

  // From now on memory holds `places` experts. Returns the experts that are given up for that.
  // REQUIRES: places > 0; called between two batches.
  std::vector<ExpertKey> resize(size_t places);
  // Begins a prompt. `in_memory`: all experts in memory, the least recent first.
  void begin(Span<const ExpertKey> in_memory);

  struct Batch {
    std::vector<ExpertKey> given_up;  // leave before the first read
    size_t passing = 0;               // how many of the batch's first experts leave once they ran
  };
  // The next batch of a layer uses `experts`, distinct, the least recently used first. All batches
  // of a layer come before the next layer's first. Afterwards the plan counts the batch's experts
  // that do not pass through as in memory.
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
