// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

#pragma once

// The C ABI of the Rust library in src/main/rust (`src/abi.rs`): a bundle's tokenizer and chat
// template. It opens no file, prints nothing and never ends the process.
//
// Thread rule: one thread at a time uses a MoeTextStream; any number use a MoeText.

#include <stddef.h>
#include <stdint.h>

extern "C" {

typedef struct MoeText MoeText;
typedef struct MoeTextStream MoeTextStream;

// Bytes of the caller.
typedef struct {
  const uint8_t* data;
  size_t size;
} MoeTextBytes;

typedef struct {
  MoeTextBytes name;  // in the bundle
  MoeTextBytes content;
} MoeTextFile;

// With kind 0 the result of a call: nothing, UTF-8, or uint32_t in this machine's order. Otherwise
// a failure (1: of the request, 2: of a file, 3: of the library): file, setting, cause and remedy,
// each with a zero after it. To be freed in both cases.
typedef struct {
  uint32_t kind;
  uint8_t* data;
  size_t size;
} MoeTextAnswer;

void moe_text_free(MoeTextAnswer answer);

// `rows` of the model's embedding; `context`: the most tokens that it takes. Sets `made` unless it
// fails.
MoeTextAnswer moe_text_open(const MoeTextFile* files, size_t count, uint32_t rows, uint32_t context,
                            MoeText** made);
void moe_text_close(MoeText* text);

// Token ids of a request: a JSON object with `text`, or with `messages` and if it has them
// `chat_template_kwargs` and `add_generation_prompt`.
MoeTextAnswer moe_text_encode(const MoeText* text, MoeTextBytes request);
// The text whose ids moe_text_encode() gives.
MoeTextAnswer moe_text_render(const MoeText* text, MoeTextBytes request);
// The text of ids.
MoeTextAnswer moe_text_decode(const MoeText* text, const uint32_t* ids, size_t count);

// For the tokens that follow a prompt. It may outlive `text`. Sets `made` unless it fails.
MoeTextAnswer moe_text_stream(const MoeText* text, const uint32_t* ids, size_t count,
                              MoeTextStream** made);
// The text that is complete now that this token came.
MoeTextAnswer moe_text_step(MoeTextStream* stream, uint32_t token);
// What was held back.
MoeTextAnswer moe_text_finish(MoeTextStream* stream);
void moe_text_stream_close(MoeTextStream* stream);

}  // extern "C"
