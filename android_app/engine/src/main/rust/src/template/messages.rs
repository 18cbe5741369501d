// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

//! Chat messages and values for templates, checked: plain data that templates take.

use super::budget::MOST;
use super::{MESSAGES, VALUES};
use crate::failure::{usage, Failure};
use crate::json::{set_member, Json};

// Where a model's thoughts are in its message. Templates read the first; the others are older names.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];
const FORM: &str = r#"Write each message like {"role": "user", "content": "Hello"}."#;
// What the template reads in a list of objects, with an example of one. As in transformers.
const LISTS: [(&str, &str); 2] = [
    (
        "tools",
        r#"{"type": "function", "function": {"name": "...", "parameters": {}}}"#,
    ),
    ("documents", r#"{"title": "...", "text": "..."}"#),
];

type Change = fn(&[Json]) -> Vec<Json>;

/// What a template may not have taken, if it does once the messages are changed so; what it takes,
/// and the remedy.
pub const NOT_TAKEN: [(Change, &str, &str); 2] = [
    (
        with_texts,
        "takes no content but texts",
        "Give the content of each message as one text.",
    ),
    (
        with_texts_and_objects,
        "takes the arguments of tool calls as objects only",
        r#"Give `arguments` as an object like {"city": "Paris"}, not as a JSON text."#,
    ),
];

/// The messages as templates see them.
pub fn plain(given: &Json) -> Result<Vec<Json>, Failure> {
    let refuse = |cause: String, remedy: &str| Err(usage(MESSAGES, cause, remedy));
    if given.list().is_empty() {
        return refuse("there are no messages".into(), FORM);
    }
    let mut plain = Vec::new();
    for (number, message) in given.list().iter().enumerate() {
        let Json::Object(members) = message else {
            return refuse(format!("message {number} is not an object"), FORM);
        };
        // As transformers does: what is null is not there.
        let mut members: Vec<_> = members
            .iter()
            .filter(|(_, value)| *value != Json::Null)
            .cloned()
            .collect();
        let member = |name: &str| {
            members
                .iter()
                .find(|(one, _)| one == name)
                .map(|(_, value)| value)
        };
        let parts = member("content");
        let is_found = parts.is_some() && member("role").and_then(Json::text) == Some("tool");
        let is_list = matches!(parts, Some(Json::List(_)));
        if !is_found && !parts.map_or(&[][..], Json::list).iter().all(is_text_part) {
            let remedy = r#"Write each part like {"type": "text", "text": "Hello"}, or the content as one text."#;
            return refuse(
                format!("not all parts of message {number}'s content are texts"),
                remedy,
            );
        }
        // A message that calls tools need not say anything.
        let may_lack = member("tool_calls").is_some() || is_found || is_list;
        for name in ["role", "content"] {
            let needed = name == "role" || !may_lack;
            if needed && member(name).and_then(Json::text).is_none() {
                return refuse(format!("message {number} has no text '{name}'"), FORM);
            }
        }
        if let Some(thoughts) = REASONING.iter().find_map(|name| member(name)).cloned() {
            if member("thinking").is_none() {
                members.insert(0, ("thinking".into(), thoughts.clone()));
            }
            set_member(&mut members, "reasoning_content", thoughts);
        }
        plain.push(Json::Object(members));
    }
    Ok(plain)
}

fn is_text_part(part: &Json) -> bool {
    part.get("type").and_then(Json::text) == Some("text")
        && part.get("text").and_then(Json::text).is_some()
}

/// What templates read besides the messages.
pub fn plain_values(values: &Json) -> Result<Vec<(String, Json)>, Failure> {
    let form = r#"Give an object like {"enable_thinking": false}."#;
    if !matches!(values, Json::Object(_) | Json::Null) {
        return Err(usage(VALUES, "it is not an object", form));
    }
    let mut plain = vec![
        ("tools".into(), Json::Null),
        ("documents".into(), Json::Null),
    ];
    for (name, value) in values.members() {
        if matches!(name.as_str(), "messages" | "add_generation_prompt") {
            return Err(usage(
                VALUES,
                format!("'{name}' cannot be set"),
                "Leave it out.",
            ));
        }
        set_member(&mut plain, name, value.clone());
    }
    for (name, example) in LISTS {
        let value = values.get(name).unwrap_or(&Json::Null);
        let is_list = matches!(value, Json::List(_))
            && value
                .list()
                .iter()
                .all(|one| matches!(one, Json::Object(_)));
        if *value != Json::Null && !is_list {
            let remedy = format!(r#"Write it like {{"{name}": [{example}]}}."#);
            return Err(usage(
                VALUES,
                format!("'{name}' is not a list of objects"),
                &remedy,
            ));
        }
    }
    Ok(plain)
}

/// Refuses more than templates may write: they are not to blame for that.
pub fn require_short(messages: &[Json], values: &[(String, Json)]) -> Result<(), Failure> {
    let all = messages.iter().chain(values.iter().map(|(_, value)| value));
    if all.map(written).sum::<usize>() > MOST {
        let cause = format!("the messages are longer than {MOST} characters");
        return Err(usage(
            MESSAGES,
            cause,
            "Shorten them: no model takes that much.",
        ));
    }
    Ok(())
}

/// About how long a value is when it is written.
fn written(value: &Json) -> usize {
    match value {
        Json::Text(text) => text.chars().count(),
        Json::List(items) => 2 + items.iter().map(|one| 2 + written(one)).sum::<usize>(),
        Json::Object(members) => {
            2 + members
                .iter()
                .map(|(name, one)| 4 + name.len() + written(one))
                .sum::<usize>()
        }
        _ => 2,
    }
}

/// The content of each message is a text.
fn with_texts(messages: &[Json]) -> Vec<Json> {
    let changed = messages.iter().cloned().map(|mut message| {
        if let Json::Object(members) = &mut message {
            let content = members
                .iter()
                .find(|(name, _)| name == "content")
                .map(|(_, value)| value);
            let content = content.and_then(Json::text).unwrap_or_default().to_owned();
            set_member(members, "content", Json::Text(content));
        }
        message
    });
    changed.collect()
}

/// Also, tool calls whose arguments are a JSON text, as in OpenAI's requests, have its object instead.
fn with_texts_and_objects(messages: &[Json]) -> Vec<Json> {
    let mut changed = with_texts(messages);
    for message in &mut changed {
        let calls = message.get("tool_calls").map_or(&[][..], Json::list);
        let calls: Vec<_> = calls.iter().cloned().map(with_object).collect();
        if let (Json::Object(members), false) = (message, calls.is_empty()) {
            set_member(members, "tool_calls", Json::List(calls));
        }
    }
    changed
}

fn with_object(mut call: Json) -> Json {
    let Json::Object(members) = &mut call else {
        return call;
    };
    for (name, value) in members {
        if name == "function" && matches!(value, Json::Object(_)) {
            *value = with_object(std::mem::replace(value, Json::Null));
        } else if let ("arguments", Json::Text(text)) = (name.as_str(), &*value) {
            let found = Json::parse(text, None)
                .ok()
                .filter(|found| matches!(found, Json::Object(_)));
            *value = found.unwrap_or_else(|| Json::Object(Vec::new()));
        }
    }
    call
}
