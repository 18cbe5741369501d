// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

//! Text from token ids as they come, without ever showing half a character.
//!
//! The same as `moe_mobile/text/detokenizer.py`, which explains it.

use crate::failure::Failure;

const REPLACEMENT: char = '\u{fffd}';
const MOST_BYTES: usize = 4; // of a character in UTF-8

/// What makes a text of ids.
pub trait Decode {
    fn decode(&self, ids: &[u32]) -> Result<String, Failure>;
}

/// Turns a stream of token ids into a stream of text.
pub struct Detokenizer<D> {
    decoder: D,
    // Tokens whose text is out, kept as context; then tokens whose text is not.
    context: Vec<u32>,
    pending: Vec<u32>,
    out: Vec<String>,
}

impl<D: Decode> Detokenizer<D> {
    /// For the tokens that follow a prompt.
    pub fn new(decoder: D, prompt: &[u32]) -> Result<Detokenizer<D>, Failure> {
        let out = texts_of_context(&decoder, prompt)?;
        Ok(Detokenizer {
            decoder,
            context: prompt.into(),
            pending: Vec::new(),
            out,
        })
    }

    /// Text that can be shown now that `token` came; often empty.
    pub fn step(&mut self, token: u32) -> Result<String, Failure> {
        self.pending.push(token);
        let added = self.added()?;
        if added.is_empty() || added.ends_with(REPLACEMENT) {
            return Ok(String::new());
        }
        // A context never begins inside a character, which would spoil what follows.
        if self.out.len() <= 1 {
            self.context.clear();
        }
        self.context.append(&mut self.pending);
        self.out = vec![self.decoder.decode(&self.context)?];
        Ok(added)
    }

    /// What was held back, U+FFFD for the bytes that never became a character.
    pub fn finish(&mut self) -> Result<String, Failure> {
        let added = self.added()?;
        (self.context, self.pending) = (Vec::new(), Vec::new());
        self.out = vec![String::new()];
        Ok(added)
    }

    fn added(&self) -> Result<String, Failure> {
        if self.pending.is_empty() {
            return Ok(String::new());
        }
        let whole = self
            .decoder
            .decode(&[&self.context[..], &self.pending].concat())?;
        if let Some(added) = self
            .out
            .iter()
            .find_map(|text| whole.strip_prefix(text.as_str()))
        {
            return Ok(added.into());
        }
        // Without one, what both texts begin with is out: nothing is lost.
        let added = &whole[common(&whole, &self.out[0])..];
        if added.starts_with(REPLACEMENT) {
            // Bytes that never become a character spoil those before them (byte fallback), whose
            // characters are out.
            return self.decoder.decode(&self.pending);
        }
        Ok(added.into())
    }
}

/// What may be out of the context's text, the most first.
///
/// U+FFFD at its end stands for a character that the prompt ends inside of, or for itself. The
/// tokens that follow tell: what is out is a beginning of the whole text.
fn texts_of_context(decoder: &impl Decode, context: &[u32]) -> Result<Vec<String>, Failure> {
    let mut texts = vec![decoder.decode(context)?];
    if !texts[0].ends_with(REPLACEMENT) {
        return Ok(texts);
    }
    let mut end = context.len();
    while end > 0 && texts.len() < MOST_BYTES {
        end -= 1;
        // Tokens without text, special ones, may stand inside of a character.
        if !decoder.decode(&context[end..=end])?.is_empty() {
            texts.push(decoder.decode(&context[..end])?);
        }
    }
    Ok(texts)
}

/// How many bytes of characters both begin with.
fn common(one: &str, other: &str) -> usize {
    let same = one.chars().zip(other.chars()).take_while(|(a, b)| a == b);
    same.map(|(a, _)| a.len_utf8()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A token is a byte of UTF-8.
    struct Bytes;

    impl Decode for Bytes {
        fn decode(&self, ids: &[u32]) -> Result<String, Failure> {
            let bytes: Vec<u8> = ids.iter().map(|&id| id as u8).collect();
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        }
    }

    fn ids(text: &str) -> Vec<u32> {
        text.bytes().map(u32::from).collect()
    }

    fn stream(prompt: &[u32], ids: &[u32]) -> Vec<String> {
        let mut stream = Detokenizer::new(Bytes, prompt).unwrap();
        let mut pieces: Vec<_> = ids.iter().map(|&id| stream.step(id).unwrap()).collect();
        pieces.push(stream.finish().unwrap());
        pieces
    }

    #[test]
    fn a_character_comes_out_whole() {
        assert_eq!(
            stream(&[], &ids("a🙂é")),
            ["a", "", "", "", "🙂", "", "é", ""]
        );
    }

    #[test]
    fn a_prompt_may_end_anywhere() {
        let whole = ids("x🙂é!");
        for cut in 0..=whole.len() {
            let shown =
                String::from_utf8_lossy(&whole[..cut].iter().map(|&b| b as u8).collect::<Vec<_>>())
                    .trim_end_matches(REPLACEMENT)
                    .to_owned();
            assert_eq!(
                shown + &stream(&whole[..cut], &whole[cut..]).concat(),
                "x🙂é!",
                "{cut}"
            );
        }
    }

    #[test]
    fn bytes_that_never_complete_are_shown_at_the_end() {
        assert_eq!(stream(&[], &ids("🙂")[..2]), ["", "", "\u{fffd}"]);
    }
}
