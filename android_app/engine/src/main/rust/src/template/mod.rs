// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

//! Chat messages written the way a model was trained to read them, with the model's own template.
//!
//! The same as `moe_mobile/text/chat.py` and `template_files.py`. A template is a program, written by
//! the maker of the checkpoint: it sees plain data and reaches nothing else.

mod budget;
mod clock;
mod dumps;
mod filters;
mod messages;
mod methods;
mod ops;
mod program;
mod syntax;
mod value;

use crate::failure::{invalid, invalid_with, usage, Failure};
use crate::json::{set_member, Json};
use crate::special_tokens::{special_tokens, CONFIG, SPECIAL};
use crate::tokenizer::{panic_text, too_many_values};
use std::collections::BTreeMap;
use std::panic::{catch_unwind, AssertUnwindSafe};

pub const TEMPLATE: &str = "chat_template.jinja";
pub const WITH_TOOLS: &str = "additional_chat_templates/tool_use.jinja";

/// The members of a request that is about messages.
pub const MESSAGES: &str = "messages";
pub const VALUES: &str = "chat_template_kwargs";

/// Bytes. Macros that call themselves take twice as much as plain recursion allows.
const STACK: usize = 32 << 20;

/// A model's chat format.
pub struct ChatTemplate {
    tokens: Vec<(String, Json)>,
    default: Source,
    with_tools: Option<Source>,
}

struct Source {
    text: String,
    file: &'static str,
}

enum Outcome {
    Written(String),
    Raised(String),
    Failed(String),
}

impl ChatTemplate {
    /// A bundle's, from the files that have to do with text.
    pub fn load(files: &BTreeMap<String, Vec<u8>>) -> Result<ChatTemplate, Failure> {
        let config = object(files, CONFIG)?;
        let tokens = special_tokens(&config, &object(files, SPECIAL)?);
        let (template, file) = match (text_of(files, TEMPLATE)?, config.get("chat_template")) {
            (Some(template), _) => (Json::Text(template), TEMPLATE),
            (None, Some(template)) if *template != Json::Null => (template.clone(), CONFIG),
            _ => {
                let remedy = "Give `text`; models tuned for chat have a template.";
                return Err(usage(MESSAGES, "this model has no chat template", remedy));
            }
        };
        // A file may have several, as a list of names and templates.
        let named = |name| {
            let found = template
                .list()
                .iter()
                .rev()
                .find(|one| one.get("name").and_then(Json::text) == Some(name));
            found
                .and_then(|one| one.get("template"))
                .and_then(Json::text)
        };
        let default = template.text().or_else(|| named("default"));
        let default = default.ok_or_else(|| invalid(file, "has no default chat template"))?;
        let with_tools = match text_of(files, WITH_TOOLS)? {
            Some(text) => Some(source(&text, WITH_TOOLS)?),
            None => named("tool_use")
                .map(|text| source(text, file))
                .transpose()?,
        };
        Ok(ChatTemplate {
            tokens,
            default: source(default, file)?,
            with_tools,
        })
    }

    /// The conversation as text. `values`: what the template reads besides; an object, or null.
    pub fn render(
        &self,
        given: &Json,
        values: &Json,
        add_generation_prompt: bool,
    ) -> Result<String, Failure> {
        let plain = messages::plain(given)?;
        let values = messages::plain_values(values)?;
        messages::require_short(&plain, &values)?;
        let has_tools = values
            .iter()
            .any(|(name, value)| name == "tools" && *value != Json::Null);
        let source = if has_tools {
            self.with_tools.as_ref()
        } else {
            None
        };
        let source = source.unwrap_or(&self.default);
        let mut data = self.tokens.clone();
        for (name, value) in values {
            set_member(&mut data, &name, value);
        }
        set_member(
            &mut data,
            "add_generation_prompt",
            Json::Bool(add_generation_prompt),
        );
        let mut write = |messages: &[Json]| {
            set_member(&mut data, MESSAGES, Json::List(messages.to_vec()));
            source.write(&Json::Object(data.clone()))
        };
        let cause = match write(&plain) {
            Outcome::Written(text) => return Ok(text),
            Outcome::Raised(said) => {
                let cause = format!(
                    "this model's chat template refuses the messages: {}",
                    words(&said)
                );
                return Err(usage(MESSAGES, cause, "Change their roles or their order."));
            }
            Outcome::Failed(cause) => cause,
        };
        for (change, what, remedy) in messages::NOT_TAKEN {
            let changed = change(&plain);
            if changed != plain && matches!(write(&changed), Outcome::Written(_)) {
                let cause = format!("this model's chat template {what}: {cause}");
                return Err(usage(MESSAGES, cause, remedy));
            }
        }
        Err(source.invalid("fails", &cause))
    }
}

impl Source {
    fn write(&self, data: &Json) -> Outcome {
        let run = || {
            let written =
                value::from_json(data).and_then(|values| program::render(&self.text, values));
            written.map_err(|error| cause_of(&error))
        };
        match on_own_stack(run) {
            Ok(text) => Outcome::Written(text),
            Err((_, Some(said))) => Outcome::Raised(said),
            Err((cause, None)) => Outcome::Failed(cause),
        }
    }

    fn invalid(&self, how: &str, cause: &str) -> Failure {
        let remedy = "Give `text`, or export again with another template.";
        invalid_with(
            self.file,
            format!("the chat template {how}: {cause}"),
            remedy,
        )
    }
}

fn source(text: &str, file: &'static str) -> Result<Source, Failure> {
    let read = || {
        let text = syntax::source_of(text).map_err(|error| cause_of(&error))?;
        program::check(&text).map_err(|error| cause_of(&error))?;
        Ok(text)
    };
    match on_own_stack(read) {
        Ok(text) => Ok(Source { text, file }),
        Err((cause, _)) => Err(Source {
            text: String::new(),
            file,
        }
        .invalid("cannot be read", &cause)),
    }
}

/// Runs a template's program, or the compiler, where it has the stack that it may take. A failure is
/// its cause, and what the template said if it refused.
fn on_own_stack(
    work: impl FnOnce() -> Result<String, String> + Send,
) -> Result<String, (String, Option<String>)> {
    let caught = move || {
        budget::begin();
        let done = catch_unwind(AssertUnwindSafe(work));
        let done = done.unwrap_or_else(|panic| Err(panic_text(&*panic)));
        done.map_err(|cause| (words(&cause), budget::raised()))
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .stack_size(STACK)
            .spawn_scoped(scope, caught);
        let thread = thread.map_err(|told| (told.to_string(), None))?;
        thread
            .join()
            .unwrap_or_else(|panic| Err((panic_text(&*panic), None)))
    })
}

/// What minijinja says of a failure and where, the innermost cause.
fn cause_of(error: &minijinja::Error) -> String {
    let mut inner = error;
    while let Some(next) = std::error::Error::source(inner).and_then(|next| next.downcast_ref()) {
        inner = next;
    }
    let cause = inner
        .detail()
        .map_or_else(|| inner.kind().to_string(), str::to_owned);
    match inner.line() {
        Some(line) if !cause.contains("(line ") => format!("{cause} (line {line})"),
        _ => cause,
    }
}

/// One line of a failure's words.
fn words(cause: &str) -> String {
    let words = cause.split_whitespace().collect::<Vec<_>>().join(" ");
    words
        .chars()
        .take(200)
        .collect::<String>()
        .trim_end_matches('.')
        .into()
}

fn text_of(
    files: &BTreeMap<String, Vec<u8>>,
    name: &'static str,
) -> Result<Option<String>, Failure> {
    let Some(data) = files.get(name) else {
        return Ok(None);
    };
    match std::str::from_utf8(data) {
        Ok(text) => Ok(Some(text.into())),
        Err(error) => Err(invalid(
            name,
            format!("is not UTF-8 at byte {}", error.valid_up_to()),
        )),
    }
}

/// The JSON object in a file; null without the file.
fn object(files: &BTreeMap<String, Vec<u8>>, name: &'static str) -> Result<Json, Failure> {
    let Some(data) = files.get(name) else {
        return Ok(Json::Null);
    };
    if too_many_values(data) {
        return Err(invalid(name, "holds too many values"));
    }
    let text = std::str::from_utf8(data).map_err(|error| error.to_string());
    match text.and_then(|text| Json::parse(text, None)) {
        Ok(value @ Json::Object(_)) => Ok(value),
        Ok(_) => Err(invalid(name, "must hold a JSON object")),
        Err(cause) => Err(invalid(name, format!("is not valid JSON: {cause}"))),
    }
}

#[cfg(test)]
mod tests;
