// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

//! A bundle's tokenizer and chat template behind a small C ABI, for the engine's runner.
//!
//! The rules are those of the Python package (`moe_mobile/text`): the same files give the same ids
//! and the same chats, and what cannot be done the same way is refused. Files come as bytes that the
//! caller has verified; nothing here opens one. No panic leaves this library.

mod abi;
mod detokenizer;
mod failure;
mod growth;
mod json;
mod special_tokens;
mod template;
mod tokenizer;

use detokenizer::Detokenizer;
use failure::{invalid, usage};
pub use failure::{Failure, Kind};
use json::Json;
use std::collections::BTreeMap;
use template::ChatTemplate;
use tokenizer::{TextTokenizer, TOKENIZER};

/// What turns prompts into token ids and new tokens into text, with what a bundle brings.
pub struct Text {
    tokenizer: TextTokenizer,
    template: Result<ChatTemplate, Failure>,
    context: usize,
}

impl Text {
    /// `files`: those of a bundle that have to do with text, by name. `rows` of the model's
    /// embedding; `context`: the most tokens that the model takes.
    pub fn open(
        files: &BTreeMap<String, Vec<u8>>,
        rows: u32,
        context: u32,
    ) -> Result<Text, Failure> {
        let data = files
            .get(TOKENIZER)
            .ok_or_else(|| invalid(TOKENIZER, "is missing"))?;
        let tokenizer = TextTokenizer::parse(data, rows)?;
        Ok(Text {
            tokenizer,
            template: ChatTemplate::load(files),
            context: context as usize,
        })
    }

    /// Token ids of `text`, or of `messages` in the model's own format; members of a JSON object.
    pub fn encode(&self, request: &str) -> Result<Vec<u32>, Failure> {
        let (text, is_chat) = self.written(request)?;
        // The template writes the special tokens itself.
        let ids = self.tokenizer.ids(&text, self.context, !is_chat)?;
        if ids.len() > self.context {
            let most = self.context;
            let cause = format!("more than {most} tokens do not fit in a context of {most}");
            let setting = if is_chat { template::MESSAGES } else { "text" };
            return Err(usage(
                setting,
                cause,
                "Shorten the prompt: the model allows no more.",
            ));
        }
        Ok(ids)
    }

    /// `messages` in the model's own format, as text.
    pub fn render(&self, request: &str) -> Result<String, Failure> {
        Ok(self.written(request)?.0)
    }

    /// The text of token ids.
    pub fn decode(&self, ids: &[u32]) -> Result<String, Failure> {
        detokenizer::Decode::decode(&self.tokenizer, ids)
    }

    /// For the tokens that follow a prompt.
    pub fn stream(&self, prompt: &[u32]) -> Result<Detokenizer<TextTokenizer>, Failure> {
        Detokenizer::new(self.tokenizer.clone(), prompt)
    }

    /// The text of a request, and whether it was written by the template.
    fn written(&self, request: &str) -> Result<(String, bool), Failure> {
        let request = Json::parse(request, None).map_err(|cause| {
            let remedy = "Write it as docs/runner.md says, with less inside of each other.";
            usage(
                template::MESSAGES,
                format!("the request cannot be read: {cause}"),
                remedy,
            )
        })?;
        if let Some(text) = request.get("text").and_then(Json::text) {
            // A byte order mark is no text, as in files.
            return Ok((text.strip_prefix('\u{feff}').unwrap_or(text).into(), false));
        }
        let nothing = Json::Null;
        let member = |name| request.get(name).unwrap_or(&nothing);
        let template = self.template.as_ref().map_err(Clone::clone)?;
        let begins = *member("add_generation_prompt") != Json::Bool(false);
        let text = template.render(member(template::MESSAGES), member(template::VALUES), begins)?;
        Ok((text, true))
    }
}
