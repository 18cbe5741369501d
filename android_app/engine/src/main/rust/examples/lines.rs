// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

//! What the tests ask the library, a JSON object a line: `lines BUNDLE ROWS CONTEXT`.
//!
//! With a `template` it is in place of the bundle's. Answers with `{"ids": ...}`, `{"text": ...}`, `{"pieces": ...}`, or what failed.

use moe_text::{Failure, Text};
use serde_json::{json, Value};
use std::collections::BTreeMap;
use std::io::{BufRead, Write};

const FILES: [&str; 5] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "additional_chat_templates/tool_use.jinja",
];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |at: usize| arguments[at].parse().expect("a number");
    let folder = std::path::Path::new(&arguments[1]);
    let read = |name: &str| Some((name.to_owned(), std::fs::read(folder.join(name)).ok()?));
    let files: BTreeMap<_, _> = FILES.iter().filter_map(|name| read(name)).collect();
    let open = |files: &BTreeMap<_, _>| Text::open(files, number(2), number(3));
    let text = open(&files);
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("a line");
        let request: Value = serde_json::from_str(&line).unwrap_or_default();
        let answer = match request["template"].as_str() {
            None => text
                .as_ref()
                .map_err(Clone::clone)
                .and_then(|text| answer(text, &line)),
            Some(template) => {
                let mut files = files.clone();
                files.insert("chat_template.jinja".into(), template.as_bytes().to_vec());
                open(&files).and_then(|text| answer(&text, &line))
            }
        };
        let answer = answer.unwrap_or_else(|told| {
            json!({"kind": told.kind as u32, "file": told.file, "setting": told.setting,
                "cause": told.cause, "remedy": told.remedy})
        });
        writeln!(out, "{answer}")
            .and_then(|()| out.flush())
            .expect("someone who reads");
    }
}

fn answer(text: &Text, line: &str) -> Result<Value, Failure> {
    let request: Value = serde_json::from_str(line).unwrap_or_default();
    let ids = |name: &str| -> Vec<u32> {
        let list = request[name].as_array().into_iter().flatten();
        list.filter_map(|id| id.as_u64().map(|id| id as u32))
            .collect()
    };
    Ok(match request["do"].as_str().unwrap_or_default() {
        "encode" => json!({"ids": text.encode(line)?}),
        "render" => json!({"text": text.render(line)?}),
        "decode" => json!({"text": text.decode(&ids("ids"))?}),
        _ => {
            let mut stream = text.stream(&ids("prompt"))?;
            let mut pieces = Vec::new();
            for id in ids("ids") {
                pieces.push(stream.step(id)?);
            }
            pieces.push(stream.finish()?);
            json!({"pieces": pieces})
        }
    })
}
