// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

//! Special tokens by name, as transformers takes them from the files next to `tokenizer.json`.
//!
//! The same as `moe_mobile/base/special_tokens.py`.

use crate::json::{set_member, Json};

pub const CONFIG: &str = "tokenizer_config.json";
pub const SPECIAL: &str = "special_tokens_map.json";

const ROLES: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];
// A model's own names are in an object. These are the keys for it, and the last one wins.
const OWN: [&str; 3] = [
    "model_specific_special_tokens",
    "additional_special_tokens",
    "extra_special_tokens",
];

/// The tokens that a chat template sees: `bos_token` and others, which a model may have under names
/// of its own. `config` and `special`: what is in the two files.
pub fn special_tokens(config: &Json, special: &Json) -> Vec<(String, Json)> {
    // The second file is read if the first does not say which tokens were added.
    let nothing = Json::Null;
    let special = if config.get("added_tokens_decoder").is_some() {
        &nothing
    } else {
        special
    };
    let mut found = Vec::new();
    for (name, value) in config.members().iter().chain(special.members()) {
        set_member(&mut found, name, value.clone());
    }
    // The second file wins, but for a model's own names.
    for (name, value) in config.members() {
        if !ROLES.contains(&name.as_str()) {
            set_member(&mut found, name, value.clone());
        }
    }
    found.retain(|(name, _)| name.ends_with("_token"));
    for members in [config, special] {
        for own in OWN.iter().filter_map(|key| members.get(key)) {
            for (name, value) in own.members() {
                set_member(&mut found, name, value.clone());
            }
        }
    }
    found
        .into_iter()
        .filter_map(|(name, value)| Some((name, content(value)?)))
        .collect()
}

fn content(token: Json) -> Option<Json> {
    match token {
        Json::Object(_) => token
            .get("content")
            .filter(|text| text.text().is_some())
            .cloned(),
        Json::Text(_) => Some(token),
        _ => None,
    }
}
