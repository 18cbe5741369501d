// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

//! How much longer than a text what a `tokenizer.json` makes of it can get.
//!
//! A few lines of rules can make a text a million times as long, and the process ends if the memory
//! is not enough, so rules are judged by their JSON before the tokenizers library reads them. The
//! same rules as `moe_mobile/base/tokenizer_growth.py`.

use crate::json::Json;
use unicode_normalization_alignments::UnicodeNormalization;

const MOST_TIMES: f64 = 500.0;
const MOST_CHARACTERS: usize = 1 << 14;
const STEPS: [&str; 4] = ["normalizers", "pretokenizers", "decoders", "processors"];
// They replace single characters, for good: again, they change nothing.
const OF_CHARACTERS: [&str; 6] = ["NFC", "NFD", "NFKC", "NFKD", "Lowercase", "BertNormalizer"];
const MOST_OF_A_CHARACTER: f64 = 18.0; // U+FDFA
const MOST_OF_A_STEP: f64 = 8.0;

/// Refuses a tokenizer if a text, its ids, or the text of ids could get too long.
pub fn require_limited(tokenizer: &Json) -> Result<(), String> {
    let (mut texts, mut decoded) = (Growth::default(), Growth::default());
    texts.add(tokenizer.get("normalizer"));
    texts.add(tokenizer.get("pre_tokenizer"));
    decoded.add(tokenizer.get("decoder"));
    for (times, what) in [
        (texts.times, "normalizer and pre_tokenizer can make a text"),
        (decoded.times, "decoder can make a text"),
        (
            times_of_ids(tokenizer.get("post_processor")),
            "post_processor can make a list of ids",
        ),
    ] {
        if times > MOST_TIMES {
            return Err(format!("its {what} more than {MOST_TIMES} times as long"));
        }
    }
    if longest_token(tokenizer) > MOST_CHARACTERS {
        return Err(format!(
            "it has a token of more than {MOST_CHARACTERS} characters"
        ));
    }
    Ok(())
}

/// Refuses merges whose second part does not begin with the prefix that the library cuts off there:
/// it counts bytes, and panics if that leaves half a character.
pub fn require_prefixed_merges(tokenizer: &Json) -> Result<(), String> {
    let model = tokenizer.get("model");
    let prefix = model
        .and_then(|m| m.get("continuing_subword_prefix"))
        .and_then(Json::text);
    let (Some(prefix), Some(merges)) = (prefix, model.and_then(|m| m.get("merges"))) else {
        return Ok(());
    };
    for merge in merges.list() {
        let last = match merge {
            Json::Text(text) => text.rsplit(' ').next(), // "a b" in old files
            other => other.list().last().and_then(Json::text),
        };
        if let Some(last) = last.filter(|last| !last.starts_with(prefix)) {
            return Err(format!(
                "its continuing_subword_prefix {prefix:?} does not begin {last:?}, the second part \
                 of a merge"
            ));
        }
    }
    Ok(())
}

/// How many times as long a text can be after some steps, in characters. What Unicode's rules do
/// once to a text is not counted: all tokenizers have that.
struct Growth {
    times: f64,
    // Whether a step wrote characters that later ones replace, and whether one had a table.
    writes: bool,
    has_table: bool,
}

impl Default for Growth {
    fn default() -> Growth {
        Growth {
            times: 1.0,
            writes: false,
            has_table: false,
        }
    }
}

impl Growth {
    /// A step, or a sequence of them; anything else has no effect.
    fn add(&mut self, step: Option<&Json>) {
        let Some(step @ Json::Object(_)) = step else {
            return;
        };
        let kind = step.get("type").and_then(Json::text);
        let mut is_sequence = false;
        for inner in STEPS.iter().filter_map(|name| step.get(name)) {
            is_sequence = true;
            for one in inner.list() {
                self.add(Some(one));
            }
        }
        if self.writes && kind.is_some_and(|kind| OF_CHARACTERS.contains(&kind)) {
            self.times *= MOST_OF_A_CHARACTER;
            self.writes = false;
        }
        // A space before each piece or token; with ByteLevel also a character for each of four
        // bytes. In an old file the members tell.
        self.times *= match kind {
            Some("Metaspace" | "WordPiece" | "BPEDecoder" | "CTC") => 2.0,
            Some("ByteLevel") => MOST_OF_A_STEP,
            None if !is_sequence => MOST_OF_A_STEP,
            _ => 1.0,
        };
        if let (Some(pattern), Some(content)) = (
            step.get("pattern"),
            step.get("content").and_then(Json::text),
        ) {
            self.write(content, times_of_replacing(pattern, content));
        }
        if let Some(before) = step.get("prepend").and_then(Json::text) {
            // Added tokens between them can make each character a text of its own.
            self.write(before, 1.0 + count(before));
        }
        if let Some(table) = step.get("precompiled_charsmap").and_then(Json::text) {
            self.times *= longest_in(table);
            self.writes |= self.has_table;
            self.has_table = true;
        }
    }

    fn write(&mut self, content: &str, times: f64) {
        self.times *= times.max(1.0);
        let plain: String = content.nfkd().map(|(one, _)| one).collect();
        self.writes |= plain.to_lowercase() != content;
    }
}

fn count(text: &str) -> f64 {
    text.chars().count() as f64
}

fn times_of_replacing(pattern: &Json, content: &str) -> f64 {
    let text = match pattern {
        Json::Object(_) => pattern.get("String").and_then(Json::text),
        other => other.text(),
    };
    match text {
        Some(text) if !text.is_empty() => count(content) / count(text),
        // A regular expression may also match the nothing before each character.
        _ => 1.0 + count(content),
    }
}

/// Of the texts in SentencePiece's table: the size of an index, the index, texts that each end with
/// a zero.
fn longest_in(table: &str) -> f64 {
    let data = from_base64(table);
    let size = data
        .iter()
        .take(4)
        .rev()
        .fold(0, |size, &byte| size << 8 | usize::from(byte));
    let texts = data.get(4usize.saturating_add(size)..).unwrap_or_default();
    let longest = texts
        .split(|&byte| byte == 0)
        .map(|one| count(&String::from_utf8_lossy(one)));
    longest.fold(1.0, f64::max)
}

/// Nothing if it is not base64: nor can the library read it then.
fn from_base64(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut group, mut bits) = (0u32, 0);
    for character in text.trim_end_matches('=').bytes() {
        let value = match character {
            b'A'..=b'Z' => character - b'A',
            b'a'..=b'z' => character - b'a' + 26,
            b'0'..=b'9' => character - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return Vec::new(),
        };
        group = group << 6 | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((group >> bits) as u8);
        }
    }
    bytes
}

/// How many ids there can be for each.
fn times_of_ids(processor: Option<&Json>) -> f64 {
    let Some(processor @ Json::Object(_)) = processor else {
        return 1.0;
    };
    let inner = processor.get("processors").map_or(&[][..], Json::list);
    let mut times: f64 = inner.iter().map(|one| times_of_ids(Some(one))).product();
    let special = processor.get("special_tokens");
    for piece in processor.get("single").map_or(&[][..], Json::list) {
        let name = piece
            .get("SpecialToken")
            .and_then(|token| token.get("id"))
            .and_then(Json::text);
        let found = name.and_then(|name| special.and_then(|special| special.get(name)));
        times += match found {
            Some(found @ Json::Object(_)) => {
                found.get("ids").map_or(0, |ids| ids.list().len()) as f64
            }
            _ => 1.0,
        };
    }
    times
}

fn longest_token(tokenizer: &Json) -> usize {
    let vocabulary = tokenizer.get("model").and_then(|model| model.get("vocab"));
    let named = vocabulary
        .map_or(&[][..], Json::members)
        .iter()
        .map(|(name, _)| name.as_str());
    // With a score each.
    let scored = vocabulary
        .map_or(&[][..], Json::list)
        .iter()
        .filter_map(|one| one.list().first());
    let added = tokenizer
        .get("added_tokens")
        .map_or(&[][..], Json::list)
        .iter();
    let texts = scored
        .chain(added.filter_map(|token| token.get("content")))
        .filter_map(Json::text);
    named
        .chain(texts)
        .map(|text| text.chars().count())
        .max()
        .unwrap_or(0)
}
