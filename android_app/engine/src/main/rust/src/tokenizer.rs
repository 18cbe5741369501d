// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

//! A bundle's `tokenizer.json`, whose failures are typed errors that name it.
//!
//! The same rules as `moe_mobile/base/tokenizer.py`. The tokenizers library returns errors for much,
//! and panics for more.

use crate::detokenizer::Decode;
use crate::failure::{invalid, Failure};
use crate::growth::{require_limited, require_prefixed_merges};
use crate::json::Json;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;
use tokenizers::{ModelWrapper, Tokenizer};

pub const TOKENIZER: &str = "tokenizer.json";

/// Values in a file of JSON: they take more memory than their text.
pub const MOST_VALUES: usize = 8 << 20;
// More than most texts have in a token, and tokens that the end of a part may change.
const CHARACTERS: usize = 8;
const SPARE_TOKENS: usize = 1024;

/// A tokenizer that takes texts as they are.
#[derive(Clone)]
pub struct TextTokenizer(Arc<Tokenizer>);

impl TextTokenizer {
    /// A bundle's. `rows`: of the model's embedding, which must have one for each token.
    pub fn parse(data: &[u8], rows: u32) -> Result<TextTokenizer, Failure> {
        let tokenizer = typed("the tokenizer cannot be read", || read(data))?;
        let tokenizer = TextTokenizer(Arc::new(tokenizer));
        tokenizer.require_rows(rows)?;
        Ok(tokenizer)
    }

    /// A text's token ids. If there are more than `most`, at least one more than those.
    ///
    /// Encoding takes hundreds of times a text's memory, so no more of a long one is read than it
    /// takes. What follows a part of a text changes only the last of its tokens.
    pub fn ids(&self, text: &str, most: usize, special: bool) -> Result<Vec<u32>, Failure> {
        let mut length = CHARACTERS * (most + SPARE_TOKENS);
        while let Some((end, _)) = text.char_indices().nth(length) {
            let mut ids = self.encode(&text[..end], special)?;
            if ids.len() > most + SPARE_TOKENS {
                ids.truncate(most + 1);
                return Ok(ids);
            }
            length *= 2;
        }
        self.encode(text, special)
    }

    fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, Failure> {
        typed("the tokenizer cannot encode a text", || {
            let encoding = self
                .0
                .encode_fast(text, special)
                .map_err(|error| error.to_string())?;
            Ok(encoding.get_ids().to_vec())
        })
    }

    /// Refuses a token, or one that is added to all texts, whose row an embedding lacks.
    fn require_rows(&self, rows: u32) -> Result<(), Failure> {
        let (token, last) = typed("the tokenizer cannot list its tokens", || {
            let vocabulary = self.0.get_vocab(true).into_iter();
            let around = put_around_texts(&self.0)?;
            Ok(vocabulary
                .chain(around)
                .max_by_key(|(_, id)| *id)
                .unwrap_or_default())
        })?;
        if last >= rows {
            let cause = format!(
                "its token {token:?} has the id {last}, but the model's embedding has {rows} rows"
            );
            return Err(invalid(TOKENIZER, cause));
        }
        Ok(())
    }
}

impl Decode for TextTokenizer {
    fn decode(&self, ids: &[u32]) -> Result<String, Failure> {
        typed("the tokenizer cannot decode tokens", || {
            self.0.decode(ids, true).map_err(|error| error.to_string())
        })
    }
}

fn read(data: &[u8]) -> Result<Tokenizer, String> {
    if too_many_values(data) {
        return Err("it holds too many values".into());
    }
    let text = std::str::from_utf8(data).map_err(|error| error.to_string())?;
    // Of members of one name only the last is judged, but the library reads each.
    let members = Json::parse(
        text,
        Some(|name| format!("it has two members {name:?} in one object")),
    )?;
    require_limited(&members)?;
    require_prefixed_merges(&members)?;
    drop(members); // takes several times the memory of the file
    let mut tokenizer: Tokenizer = text.parse().map_err(|error| format!("{error}"))?;
    // Left over from training; transformers ignores the first two too.
    tokenizer
        .with_truncation(None)
        .map_err(|error| error.to_string())?;
    tokenizer.with_padding(None);
    if let ModelWrapper::BPE(model) = tokenizer.get_model() {
        if model.dropout.is_some() {
            let mut model = model.clone();
            model.dropout = None;
            tokenizer.with_model(model);
        }
    }
    Ok(tokenizer)
}

/// Whether JSON would take much more memory than its text. Each value comes after a comma or a
/// bracket, so this counts at least all values.
pub fn too_many_values(data: &[u8]) -> bool {
    data.iter()
        .filter(|byte| matches!(byte, b',' | b'[' | b'{'))
        .count()
        > MOST_VALUES
}

/// Tokens of the post-processor, which the vocabulary need not have, and their ids.
fn put_around_texts(tokenizer: &Tokenizer) -> Result<Vec<(String, u32)>, String> {
    let Some(processor) = tokenizer.get_post_processor() else {
        return Ok(Vec::new());
    };
    let written = serde_json::to_string(processor).map_err(|error| error.to_string())?;
    let mut left = vec![Json::parse(&written, None)?];
    let mut found = Vec::new();
    while let Some(one) = left.pop() {
        for name in ["cls", "sep"] {
            if let Some([Json::Text(token), Json::Int(id)]) = one.get(name).map(Json::list) {
                found.push((token.clone(), *id as u32));
            }
        }
        let pieces = one.get("single").map_or(&[][..], Json::list).iter();
        let used: Vec<_> = pieces
            .filter_map(|piece| piece.get("SpecialToken")?.get("id")?.text())
            .collect();
        for (name, token) in one.get("special_tokens").map_or(&[][..], Json::members) {
            if used.contains(&name.as_str()) {
                for id in token.get("ids").map_or(&[][..], Json::list) {
                    if let Json::Int(id) = id {
                        found.push((name.clone(), *id as u32));
                    }
                }
            }
        }
        if let Some(Json::List(inner)) = one.get("processors") {
            left.extend(inner.iter().cloned());
        }
    }
    Ok(found)
}

/// What `work` gives; its failure, a panic also, as a fault of the file.
fn typed<T>(what: &str, work: impl FnOnce() -> Result<T, String>) -> Result<T, Failure> {
    let cause = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(cause)) => cause,
        Err(panic) => panic_text(&*panic),
    };
    let cause = cause.split_whitespace().collect::<Vec<_>>().join(" ");
    Err(invalid(TOKENIZER, format!("{what}: {cause}")))
}

/// What a panic says.
pub fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied())
        .unwrap_or("an unknown failure")
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(changes: &[(&str, &str)]) -> Vec<u8> {
        let mut text =
            r#"{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
            "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,
            "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}}"#
                .to_owned();
        for (from, to) in changes {
            assert!(text.contains(from), "{from}");
            text = text.replace(from, to);
        }
        text.into_bytes()
    }

    fn cause(changes: &[(&str, &str)]) -> String {
        let failure = TextTokenizer::parse(&file(changes), 10).err().unwrap();
        assert_eq!(failure.file, TOKENIZER);
        failure.cause
    }

    #[test]
    fn a_text_has_ids_and_ids_a_text() {
        let tokenizer = TextTokenizer::parse(&file(&[]), 3).unwrap();
        assert_eq!(tokenizer.ids("abba", 9, true).unwrap(), [2, 1, 0]);
        assert_eq!(tokenizer.decode(&[2, 7, 1]).unwrap(), "ab b");
    }

    #[test]
    fn what_training_left_over_does_not_apply() {
        let truncation = r#""truncation": {"direction": "Right", "max_length": 1, "strategy":
            "LongestFirst", "stride": 0}"#;
        let changes = [
            (r#""truncation": null"#, truncation),
            (r#""type": "BPE""#, r#""type": "BPE", "dropout": 1.0"#),
        ];
        let tokenizer = TextTokenizer::parse(&file(&changes), 3).unwrap();
        assert_eq!(tokenizer.ids("abab", 9, true).unwrap(), [2, 2]);
    }

    #[test]
    fn long_texts_are_read_as_far_as_needed() {
        let tokenizer = TextTokenizer::parse(&file(&[]), 3).unwrap();
        assert_eq!(
            tokenizer.ids(&"ba".repeat(50_000), 5, true).unwrap().len(),
            6
        );
        assert_eq!(tokenizer.ids("ba", 5, true).unwrap(), [1, 0]);
    }

    #[test]
    fn broken_files_are_refused() {
        assert!(cause(&[(r#""a b""#, r#""a c""#)]).contains("cannot be read"));
        assert!(cause(&[(r#""a": 0"#, r#""a": 99"#)]).contains("has the id 99"));
        assert!(cause(&[(r#""version""#, r#""model": 1, "version""#)]).contains("two members"));
        let prefix = r#""type": "BPE", "continuing_subword_prefix": "é""#;
        assert!(cause(&[(r#""type": "BPE""#, prefix)]).contains("continuing_subword_prefix"));
        let long = format!(r#""{}": 0"#, "a".repeat(20_000));
        assert!(cause(&[(r#""a": 0"#, &long)]).contains("more than 16384 characters"));
        let prepend = r#""normalizer": {"type": "Prepend", "prepend": "PPP"}"#
            .replace("PPP", &"x".repeat(900));
        assert!(cause(&[(r#""normalizer": null"#, &prepend)]).contains("more than 500 times"));
        assert_eq!(TextTokenizer::parse(b"[", 1).err().unwrap().file, TOKENIZER);
    }
}
