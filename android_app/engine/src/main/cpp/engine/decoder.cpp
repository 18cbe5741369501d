// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#include "engine/decoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "metrics/stopwatch.h"
#include "routing/top_k.h"

namespace moe_mobile {
namespace {

// The starts of matrices [rows, width] that are stored in `data` one after the other.
std::vector<float*> matrices(const std::vector<uint32_t>& widths, size_t rows, float* data) {
  std::vector<float*> begins;
  for (const uint32_t width : widths) {
    begins.push_back(data);
    data += rows * width;
  }
  return begins;
}

// Of programs whose weights or activations are too large, mostly: a damaged bundle is rarer.
[[noreturn]] void refuse_value(const std::string& directory, const std::string& what, float value) {
  const char* name = std::isnan(value) ? "NaN" : value > 0 ? "infinity" : "-infinity";
  throw Error(
      ErrorCode::kRuntime, directory, what + " is " + name,
      "The model's weights or activations overflow float32, unless `moe-mobile verify` finds "
      "the bundle damaged: run the checkpoint in transformers to compare, and try another "
      "quantization of it.");
}

}  // namespace

Decoder::Decoder(const Bundle& bundle, std::unique_ptr<DensePrograms> dense,
                 std::unique_ptr<ExpertStream> experts, Selector selector, uint32_t context,
                 ParallelFor parallel)
    : directory_(bundle.directory()),
      manifest_(bundle.manifest()),
      dense_(std::move(dense)),
      experts_(std::move(experts)),
      selector_(std::move(selector)),
      embedding_(bundle.path(manifest_.embedding.file), manifest_.embedding, manifest_.vocab_size,
                 manifest_.hidden_size),
      mixers_(manifest_, context),
      parallel_(std::move(parallel)),
      context_(context),
      moe_layers_(manifest_.moe_layers()) {
  // plan_engine() must count all that is allocated here.
  const size_t batch = manifest_.max_batch;
  const size_t hidden = manifest_.hidden_size;
  const MixerColumns columns = widest_mixer(manifest_);
  x_.resize(hidden);
  next_x_.resize(hidden);
  mixer_inputs_.resize(batch * columns.inputs);
  mixer_outputs_.resize(batch * columns.outputs);
  for (uint32_t layer = 0; layer < manifest_.num_layers; ++layer) {
    const MixerFacts& facts = mixers_[layer].facts();
    inputs_of_.push_back(matrices(facts.input_widths, batch, mixer_inputs_.data()));
    outputs_of_.push_back(matrices(facts.output_widths, batch, mixer_outputs_.data()));
  }
  h_.resize(batch * hidden);
  router_logits_.resize(batch * manifest_.moe.num_experts);
  outputs_.resize(batch * manifest_.moe.top_k * hidden);
  gathered_.resize(batch * manifest_.moe.top_k * hidden);
  logits_.resize(manifest_.vocab_size);
  selections_.resize(batch);
  output_rows_.resize(batch * manifest_.moe.top_k);
}

std::vector<ExpertKey> Decoder::cached() const {
  std::vector<ExpertKey> keys;
  for (const LogicalCache& cache : selector_.caches())
    for (const ExpertKey& key : cache.by_recency()) keys.push_back(physical(key));
  return keys;
}

void Decoder::load_cached(const Progress& progress) { experts_->load(cached(), progress); }

void Decoder::clear() {
  mixers_.clear();
  selector_.reset();
  position_ = 0;
  // With other initial caches memory stays as it is: the prompt may find some of its experts there.
  if (selector_.settings().initial == InitialCache::kPrompt) experts_->retain(cached());
}

void Decoder::resize(uint32_t capacity, uint32_t low_capacity, Span<const uint32_t> places) {
  selector_.resize(capacity, low_capacity);
  experts_->resize(places, cached());
}

void Decoder::require_room(size_t tokens) const {
  if (tokens == 0)
    throw Error(ErrorCode::kUsage, Setting{"token_ids"}, "there are no tokens",
                "Give at least one.");
  if (tokens > context_ - position_)
    throw Error(ErrorCode::kUsage, Setting{"token_ids"},
                std::to_string(position_ + tokens) + " tokens do not fit in a context of " +
                    std::to_string(context_),
                context_ == manifest_.context_length
                    ? "Shorten the prompt: the model allows no more."
                    : "Shorten the prompt, or give a larger `context` (the model allows " +
                          std::to_string(manifest_.context_length) + ").");
}

void Decoder::mix(uint32_t layer, uint32_t first, uint32_t rows, float* x, TokenMetrics* metrics) {
  Stopwatch watch;
  float* const* inputs = inputs_of_[layer].data();
  float* const* outputs = outputs_of_[layer].data();
  dense_->qkv(layer, x, rows, inputs);
  metrics->dense_ns += watch.lap();
  mixers_[layer].run(first, rows, inputs, outputs, parallel_);
  metrics->attention_ns += watch.lap();
  dense_->mix(layer, outputs, x, rows, x, h_.data(), router_logits_.data());
  metrics->dense_ns += watch.lap();
}

void Decoder::route(uint32_t layer, uint32_t first_position, uint32_t rows, Phase phase,
                    TokenMetrics* metrics) {
  Stopwatch watch;
  const size_t num_experts = manifest_.moe.num_experts;
  if (replayed_ != nullptr)
    for (uint32_t row = 0; row < rows; ++row) {
      const size_t at = (size_t{first_position} + row) * moe_layers_.size() + moe_index(layer);
      std::copy_n(replayed_ + at * num_experts, num_experts,
                  router_logits_.data() + row * num_experts);
    }
  if (recorded_ != nullptr)
    recorded_->insert(recorded_->end(), router_logits_.data(),
                      router_logits_.data() + rows * num_experts);
  const auto index = static_cast<uint32_t>(moe_index(layer));
  for (uint32_t row = 0; row < rows; ++row) {
    const float* logits = router_logits_.data() + row * num_experts;
    const uint32_t bad = first_not_finite(logits, manifest_.moe.num_experts);
    if (bad < num_experts)
      refuse_value(directory_,
                   "the router's logit of expert " + std::to_string(bad) + " of layer " +
                       std::to_string(layer),
                   logits[bad]);
    Selection& selection = selections_[row];
    if (phase == Phase::kPrefill) {
      selector_.prompt(index, logits, &selection);
    } else {
      evicted_.clear();
      for (const ExpertKey& key : selector_.decode(index, logits, &selection).evicted)
        evicted_.push_back(physical(key));
    }
    metrics->slots_changed_by_routing += selection.changed;
  }
  metrics->router_ns += watch.lap();
}

size_t Decoder::moe_index(uint32_t layer) const {
  return std::lower_bound(moe_layers_.begin(), moe_layers_.end(), layer) - moe_layers_.begin();
}

// Adds in rank order, not in the order of arrival. This makes the result independent of the cache.
void Decoder::add_experts(uint32_t rows, float* x) {
  const size_t hidden = manifest_.hidden_size;
  const size_t top_k = manifest_.moe.top_k;
  for (size_t row = 0; row < rows; ++row, x += hidden) {
    for (size_t rank = 0; rank < selections_[row].experts.size(); ++rank) {
      if (selections_[row].dropped[rank] != 0) continue;
      const float* y = outputs_.data() + output_rows_[row * top_k + rank] * hidden;
      const float weight = selections_[row].weights[rank];
      for (size_t i = 0; i < hidden; ++i) x[i] += weight * y[i];
    }
  }
}

void Decoder::decode_experts(uint32_t layer, TokenMetrics* metrics) {
  jobs_.clear();
  for (uint32_t rank = 0; rank < selections_[0].experts.size(); ++rank) {
    output_rows_[rank] = rank;
    if (selections_[0].dropped[rank] != 0) {
      ++metrics->dropped;
      continue;
    }
    jobs_.push_back({{layer, selections_[0].experts[rank], selector_.variant(rank)},
                     h_.data(),
                     1,
                     outputs_.data() + size_t{rank} * manifest_.hidden_size});
  }
  experts_->decode(jobs_, evicted_, metrics);
  Stopwatch watch;
  add_experts(1, next_x_.data());
  metrics->expert_ns += watch.lap();
}

void Decoder::prefill_experts(uint32_t layer, uint32_t rows, size_t first_row, bool last_batch,
                              float* x, TokenMetrics* metrics) {
  const uint32_t top_k = manifest_.moe.top_k;
  const size_t hidden = manifest_.hidden_size;
  const size_t index = moe_index(layer);
  Stopwatch watch;
  // An expert in another precision is another job. Count each job's uses and find its last one:
  // within a token the lowest rank counts as used first, so rank 0 is the latest.
  const size_t num_experts = manifest_.moe.num_experts;
  const size_t keys = num_experts * selector_.caches().size();
  const auto key_of = [&](uint32_t row, uint32_t rank) {
    return selector_.variant(rank) * num_experts + selections_[row].experts[rank];
  };
  std::vector<uint32_t> uses(keys, 0);
  std::vector<uint64_t> last_use(keys, 0);
  for (uint32_t row = 0; row < rows; ++row)
    for (uint32_t rank = 0; rank < selections_[row].experts.size(); ++rank) {
      const size_t key = key_of(row, rank);
      ++uses[key];
      last_use[key] = uint64_t{row} * top_k + (top_k - rank);
      history_[((first_row + row) * moe_layers_.size() + index) * top_k + rank] =
          selections_[row].experts[rank];
    }
  std::vector<size_t> used;
  for (size_t key = 0; key < keys; ++key)
    if (uses[key] > 0) used.push_back(key);
  std::sort(used.begin(), used.end(),
            [&](size_t a, size_t b) { return last_use[a] < last_use[b]; });

  jobs_.clear();
  std::vector<uint32_t> next_row(keys);
  uint32_t first = 0;
  for (const size_t key : used) {
    next_row[key] = first;
    jobs_.push_back({{layer, static_cast<uint32_t>(key % num_experts),
                      static_cast<uint32_t>(key / num_experts)},
                     gathered_.data() + first * hidden,
                     uses[key],
                     outputs_.data() + first * hidden});
    first += uses[key];
  }
  for (uint32_t row = 0; row < rows; ++row)
    for (uint32_t rank = 0; rank < selections_[row].experts.size(); ++rank) {
      const uint32_t at = next_row[key_of(row, rank)]++;
      output_rows_[row * top_k + rank] = at;
      std::memcpy(gathered_.data() + at * hidden, h_.data() + row * hidden, hidden * sizeof(float));
    }
  metrics->expert_ns += watch.lap();
  experts_->prefill(jobs_, last_batch, metrics);
  watch.lap();
  add_experts(rows, x);
  metrics->expert_ns += watch.lap();
}

TokenMetrics Decoder::prefill(Span<const uint32_t> tokens, const Progress& progress) {
  require_room(tokens.size());
  Stopwatch watch;
  TokenMetrics metrics;
  metrics.token = tokens[tokens.size() - 1];
  const size_t hidden = manifest_.hidden_size;
  std::vector<float> x(tokens.size() * hidden);
  embedding_.rows(tokens, x.data());
  history_.assign(tokens.size() * moe_layers_.size() * manifest_.moe.top_k, Selection::kNone);
  mixers_.begin(position_, static_cast<uint32_t>(tokens.size()));
  experts_->begin_prompt(cached());
  try {
    prefill_layers(tokens.size(), x.data(), &metrics, progress);
    selector_.replay(history_);
    experts_->fill(cached());
  } catch (...) {
    mixers_.rewind();
    // Within a conversation the routing method's averages keep the prompt's values.
    if (position_ == 0) selector_.reset();
    experts_->retain(cached());
    throw;
  }
  std::copy(x.end() - static_cast<ptrdiff_t>(hidden), x.end(), x_.begin());
  position_ += static_cast<uint32_t>(tokens.size());
  metrics.total_ns = watch.lap();
  return metrics;
}

void Decoder::prefill_layers(size_t rows, float* x, TokenMetrics* metrics,
                             const Progress& progress) {
  const size_t most = manifest_.max_batch;
  uint64_t done = 0;  // rows of all layers
  for (uint32_t layer = 0; layer < manifest_.num_layers; ++layer)
    for (size_t first = 0; first < rows; first += most) {
      const auto batch = static_cast<uint32_t>(std::min(most, rows - first));
      float* batch_x = x + first * manifest_.hidden_size;
      const uint32_t position = position_ + static_cast<uint32_t>(first);
      mix(layer, position, batch, batch_x, metrics);
      if (manifest_.layers[layer].experts) {
        route(layer, position, batch, Phase::kPrefill, metrics);
        prefill_experts(layer, batch, first, first + batch == rows, batch_x, metrics);
      }
      done += batch;
      progress("prefill", done / manifest_.num_layers, rows);
    }
}

TokenMetrics Decoder::decode(uint32_t token) {
  require_room(1);
  if (position_ == 0) experts_->fill(cached());
  Stopwatch watch;
  TokenMetrics metrics;
  metrics.token = token;
  embedding_.rows(Span<const uint32_t>(&token, 1), next_x_.data());
  mixers_.begin(position_, 1);
  try {
    for (uint32_t layer = 0; layer < manifest_.num_layers; ++layer) {
      mix(layer, position_, 1, next_x_.data(), &metrics);
      if (!manifest_.layers[layer].experts) continue;
      route(layer, position_, 1, Phase::kDecode, &metrics);
      decode_experts(layer, &metrics);
    }
  } catch (...) {
    mixers_.rewind();
    throw;
  }
  std::swap(x_, next_x_);
  ++position_;
  metrics.total_ns = watch.lap();
  return metrics;
}

const float* Decoder::logits(TokenMetrics* metrics) {
  Stopwatch watch;
  dense_->head(x_.data(), logits_.data());
  const uint64_t passed = watch.lap();
  metrics->head_ns += passed;
  metrics->total_ns += passed;
  const uint32_t bad = first_not_finite(logits_.data(), manifest_.vocab_size);
  if (bad < manifest_.vocab_size)
    refuse_value(directory_, "the logit of token " + std::to_string(bad), logits_[bad]);
  return logits_.data();
}

}  // namespace moe_mobile
