// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

//! The text of a template as minijinja is to compile it.

use super::budget::error;
use minijinja::machinery::{tokenize, Token, WhitespaceConfig};
use minijinja::syntax::SyntaxConfig;
use minijinja::Error;

/// Characters of a template: ten times the longest that are published.
const MOST_SOURCE: usize = 1 << 18;
/// Words and signs of one tag, and tags inside of each other: the compiler's stack holds them all.
const MOST_OF_A_TAG: usize = 4000;
const MOST_NESTED: usize = 500;

/// What marks constants; it changes nothing.
pub const CONSTANT: &str = "moe_text_constant";
/// What loops go through: a list of the elements of any value.
pub const ELEMENTS: &str = "moe_text_elements";

/// White space as transformers has it.
pub const SPACE: WhitespaceConfig = WhitespaceConfig {
    keep_trailing_newline: false,
    lstrip_blocks: true,
    trim_blocks: true,
};

/// A template's text as minijinja takes it.
pub fn source_of(text: &str) -> Result<String, Error> {
    if text.len() > MOST_SOURCE {
        return Err(error(format!(
            "it is longer than {} KiB",
            MOST_SOURCE >> 10
        )));
    }
    // Jinja reads all ends of lines as one.
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    with_marked_constants(&without_generation_tags(&text))
}

/// `{% generation %}...{% endgeneration %}` marks the model's answers for training: its body is
/// written as it is, in a scope of its own, as that of `with`.
fn without_generation_tags(text: &str) -> String {
    let mut made = String::new();
    let mut left = text;
    while let Some(at) = left.find("{%") {
        let (before, tag) = left.split_at(at + 2);
        made.push_str(before);
        let start = tag.len() - tag.trim_start_matches(['-', '+']).trim_start().len();
        let name = &tag[start..];
        let end = name
            .find(|c: char| !c.is_alphanumeric())
            .unwrap_or(name.len());
        let with = match &name[..end] {
            "generation" => Some("with"),
            "endgeneration" => Some("endwith"),
            _ => None,
        };
        made.push_str(&tag[..start]);
        made.push_str(with.unwrap_or(&name[..end]));
        left = &name[end..];
    }
    made + left
}

/// Each constant gets a filter, so that minijinja computes nothing with it before the template
/// runs: it would by its own rules. So does what a loop goes through. Refuses what is nested too
/// deeply.
fn with_marked_constants(text: &str) -> Result<String, Error> {
    let mut marked = Marked {
        text,
        made: String::new(),
        done: 0,
    };
    let mut tokens = tokenize(text, false, SyntaxConfig, SPACE).peekable();
    let mut before = ["", ""]; // the last two words and signs that matter
    let (mut in_tag, mut nested, mut brackets) = (0, 0usize, 0i32);
    let mut begins_block = false;
    let mut place = Loop::Elsewhere;
    while let Some(token) = tokens.next() {
        let (token, span) = token?;
        in_tag += 1;
        if in_tag > MOST_OF_A_TAG || nested > MOST_NESTED {
            return Err(error("it is nested too deeply, or has a huge tag"));
        }
        let (start, end) = (span.start_offset as usize, span.end_offset as usize);
        let mut word = "";
        match token {
            Token::BlockEnd | Token::VariableEnd | Token::TemplateData(_) => in_tag = 0,
            Token::ParenOpen | Token::BracketOpen | Token::BraceOpen => brackets += 1,
            Token::ParenClose | Token::BracketClose | Token::BraceClose => brackets -= 1,
            Token::Dot => word = ".",
            Token::Pipe => word = "|",
            Token::Ident(name) => word = name,
            _ => {}
        }
        let ends_loop = matches!(token, Token::BlockEnd)
            || matches!(word, "if" | "recursive") && brackets == 0 && before[1] != ".";
        if place == Loop::Iterates && ends_loop {
            marked.insert(start, &format!(")|{ELEMENTS} "));
            place = Loop::Elsewhere;
        }
        if begins_block && !word.is_empty() {
            nested = nested_after(word, nested);
            brackets = 0;
            place = if word == "for" {
                Loop::Begins
            } else {
                Loop::Elsewhere
            };
        }
        let is_constant = match token {
            Token::Str(_)
            | Token::String(_)
            | Token::Int(_)
            | Token::Int128(_)
            | Token::Float(_) => before[1] != ".",
            Token::Ident(name) => {
                let is_name = matches!(before, [_, "." | "|" | "is"] | ["is", "not"])
                    || matches!(tokens.peek(), Some(Ok((Token::Assign, _))));
                matches!(name, "true" | "false" | "none" | "True" | "False" | "None") && !is_name
            }
            _ => false,
        };
        if is_constant {
            marked.insert(start, "(");
            marked.insert(end, &format!("|{CONSTANT})"));
        }
        if place == Loop::Begins && word == "in" {
            marked.insert(end, " (");
            place = Loop::Iterates;
        }
        begins_block = matches!(token, Token::BlockStart);
        before = [before[1], word];
    }
    Ok(marked.made + &text[marked.done..])
}

/// Where in a tag that begins a loop.
#[derive(PartialEq)]
enum Loop {
    Elsewhere,
    Begins,
    Iterates,
}

/// A text with insertions.
struct Marked<'a> {
    text: &'a str,
    made: String,
    done: usize,
}

impl Marked<'_> {
    fn insert(&mut self, at: usize, more: &str) {
        self.made.push_str(&self.text[self.done..at]);
        self.made.push_str(more);
        self.done = at;
    }
}

/// How many tags are open after one of this name. An `elif` is compiled inside of the one before it.
fn nested_after(name: &str, nested: usize) -> usize {
    match name {
        "if" | "elif" | "for" | "with" | "macro" | "call" | "filter" | "autoescape" | "block" => {
            nested + 1
        }
        "endif" | "endfor" | "endwith" | "endmacro" | "endcall" | "endfilter" | "endautoescape"
        | "endblock" => nested.saturating_sub(1),
        _ => nested,
    }
}
