// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#include "engine/generate.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace moe_mobile {
namespace {

bool is_end(const ModelInfo& model, uint32_t token) {
  return std::binary_search(model.eos_token_ids.begin(), model.eos_token_ids.end(), token);
}

}  // namespace

Generator::Generator(Engine* engine, Span<const uint32_t> prompt, uint32_t max_new_tokens,
                     const SamplingSettings& sampling, bool ignore_eos, const Progress& progress)
    : engine_(engine),
      conversation_(engine->conversation()),
      cancellation_(engine),
      sampler_(sampling, engine->model().vocab_size),
      remaining_(max_new_tokens),
      ignore_eos_(ignore_eos) {
  // A cancel() before the prompt's own work begins counts too.
  engine_->prefill(prompt, [&](const char* stage, uint64_t done, uint64_t total) {
    cancellation_.check();
    progress(stage, done, total);
  });
}

std::optional<uint32_t> Generator::next() {
  if (ended_ || remaining_ == 0) return std::nullopt;
  if (conversation_ != engine_->conversation())
    throw Error(ErrorCode::kUsage, "", "the engine has begun another conversation",
                "Take all tokens of one generation before the next call, or open a second engine.");
  cancellation_.check();
  if (previous_) {
    if (engine_->position() == engine_->context()) {
      stop_ = "context";
      ended_ = true;
      return std::nullopt;
    }
    engine_->decode(*previous_);
    cancellation_.check();
  }
  logits_ = engine_->logits();
  const uint32_t token = sampler_.sample(logits_);
  if (!ignore_eos_ && is_end(engine_->model(), token)) {
    stop_ = "eos";
    ended_ = true;
    return std::nullopt;
  }
  previous_ = token;
  --remaining_;
  return token;
}

void score(Engine* engine, Span<const uint32_t> tokens,
           const std::function<void(size_t index, const float* logits)>& row) {
  const Cancellation cancellation(engine);
  const uint32_t vocab_size = engine->model().vocab_size;
  for (uint32_t token : tokens)
    if (token >= vocab_size)
      throw Error(ErrorCode::kUsage, Setting{"token_ids"},
                  "token " + std::to_string(token) + " is outside the vocabulary of " +
                      std::to_string(vocab_size),
                  "Tokenize with the bundle's own tokenizer.");
  if (tokens.size() > engine->context() - engine->position())
    throw Error(ErrorCode::kUsage, Setting{"token_ids"},
                std::to_string(tokens.size()) + " tokens do not fit in a context of " +
                    std::to_string(engine->context()),
                "Score fewer, or give a larger `context`.");
  for (size_t i = 0; i < tokens.size(); ++i) {
    engine->decode(tokens[i]);
    cancellation.check();
    row(i, engine->logits());
  }
}

double log_probability(const float* logits, uint32_t vocab_size, uint32_t token) {
  double largest = logits[0];
  for (uint32_t i = 1; i < vocab_size; ++i) largest = std::max<double>(largest, logits[i]);
  double sum = 0;
  for (uint32_t i = 0; i < vocab_size; ++i) sum += std::exp(logits[i] - largest);
  return logits[token] - largest - std::log(sum);
}

}  // namespace moe_mobile
