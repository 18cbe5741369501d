// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

//! JSON as Python reads it: objects keep the order of their members, whole numbers stay whole.

use std::iter::Peekable;
use std::str::Chars;

/// Values inside of each other, as many as serde_json takes.
pub const MOST_DEPTH: usize = 100;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(String),
    List(Vec<Json>),
    /// Members of different names, in order.
    Object(Vec<(String, Json)>),
}

impl Json {
    /// The value of a text. `repeated`: what becomes of a name that is twice in one object; without
    /// it the last one counts.
    pub fn parse(text: &str, repeated: Option<fn(&str) -> String>) -> Result<Json, String> {
        let mut parser = Parser {
            left: text.chars().peekable(),
            repeated,
        };
        let value = parser.value(0)?;
        parser.space();
        match parser.left.next() {
            None => Ok(value),
            Some(_) => Err("it goes on after its end".into()),
        }
    }

    /// A member of an object.
    pub fn get(&self, name: &str) -> Option<&Json> {
        match self {
            Json::Object(members) => members.iter().find(|(n, _)| n == name).map(|(_, v)| v),
            _ => None,
        }
    }

    /// The text of a text.
    pub fn text(&self) -> Option<&str> {
        match self {
            Json::Text(text) => Some(text),
            _ => None,
        }
    }

    /// What a list holds; nothing for any other value.
    pub fn list(&self) -> &[Json] {
        match self {
            Json::List(items) => items,
            _ => &[],
        }
    }

    /// Members of an object; nothing for any other value.
    pub fn members(&self) -> &[(String, Json)] {
        match self {
            Json::Object(members) => members,
            _ => &[],
        }
    }
}

/// Sets a member as Python's dicts do: one that is there keeps its place.
pub fn set_member(members: &mut Vec<(String, Json)>, name: &str, value: Json) {
    match members.iter_mut().find(|(n, _)| n == name) {
        Some((_, old)) => *old = value,
        None => members.push((name.into(), value)),
    }
}

struct Parser<'a> {
    left: Peekable<Chars<'a>>,
    repeated: Option<fn(&str) -> String>,
}

impl Parser<'_> {
    fn space(&mut self) {
        while matches!(self.left.peek(), Some(' ' | '\t' | '\n' | '\r')) {
            self.left.next();
        }
    }

    fn take(&mut self, wanted: char) -> bool {
        self.space();
        self.left.next_if_eq(&wanted).is_some()
    }

    fn expect(&mut self, wanted: char) -> Result<(), String> {
        if self.take(wanted) {
            return Ok(());
        }
        Err(match self.left.peek() {
            Some(found) => format!("expected {wanted:?}, found {found:?}"),
            None => format!("expected {wanted:?}, but it ends"),
        })
    }

    fn word(&mut self, rest: &str, value: Json) -> Result<Json, String> {
        for wanted in rest.chars() {
            if self.left.next() != Some(wanted) {
                return Err("unknown word".into());
            }
        }
        Ok(value)
    }

    fn value(&mut self, depth: usize) -> Result<Json, String> {
        if depth > MOST_DEPTH {
            return Err(format!("nested deeper than {MOST_DEPTH} levels"));
        }
        self.space();
        match self.left.next() {
            Some('n') => self.word("ull", Json::Null),
            Some('t') => self.word("rue", Json::Bool(true)),
            Some('f') => self.word("alse", Json::Bool(false)),
            Some('"') => Ok(Json::Text(self.string()?)),
            Some('[') => self.items(depth),
            Some('{') => self.object(depth),
            Some(first @ ('-' | '0'..='9')) => self.number(first),
            Some(other) => Err(format!("unexpected {other:?}")),
            None => Err("it ends too early".into()),
        }
    }

    fn items(&mut self, depth: usize) -> Result<Json, String> {
        let mut items = Vec::new();
        if self.take(']') {
            return Ok(Json::List(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            if !self.take(',') {
                self.expect(']')?;
                return Ok(Json::List(items));
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Json, String> {
        // Also of a vocabulary with 200,000 words: names are found by their hash.
        let mut members = indexmap::IndexMap::new();
        if self.take('}') {
            return Ok(Json::Object(Vec::new()));
        }
        loop {
            self.expect('"')?;
            let name = self.string()?;
            self.expect(':')?;
            let value = self.value(depth + 1)?;
            if let (Some(complain), true) = (self.repeated, members.contains_key(&name)) {
                return Err(complain(&name));
            }
            members.insert(name, value);
            if !self.take(',') {
                self.expect('}')?;
                return Ok(Json::Object(members.into_iter().collect()));
            }
        }
    }

    fn number(&mut self, first: char) -> Result<Json, String> {
        let mut digits = String::from(first);
        while let Some(next) = self
            .left
            .next_if(|c| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-'))
        {
            digits.push(next);
        }
        let unsigned = digits.trim_start_matches('-');
        let leads =
            unsigned.starts_with('0') && unsigned.as_bytes().get(1).is_some_and(u8::is_ascii_digit);
        let bad = || format!("invalid number {digits}");
        if leads || !unsigned.starts_with(|c: char| c.is_ascii_digit()) || unsigned.ends_with('.') {
            return Err(bad());
        }
        if digits.contains(['.', 'e', 'E']) {
            return digits.parse().map(Json::Float).map_err(|_| bad());
        }
        digits
            .parse()
            .map(Json::Int)
            .map_err(|_| format!("the number {digits} is too large"))
    }

    fn string(&mut self) -> Result<String, String> {
        let mut text = String::new();
        loop {
            match self.left.next() {
                None => return Err("a text does not end".into()),
                Some('"') => return Ok(text),
                Some('\\') => text.push(self.escape()?),
                Some(control) if control < ' ' => {
                    return Err("a text has a control character".into())
                }
                Some(plain) => text.push(plain),
            }
        }
    }

    fn escape(&mut self) -> Result<char, String> {
        Ok(match self.left.next() {
            Some(plain @ ('"' | '\\' | '/')) => plain,
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('u') => {
                let mut units = vec![self.unit()?];
                if (0xd800..0xdc00).contains(&units[0]) {
                    if self.left.next() != Some('\\') || self.left.next() != Some('u') {
                        return Err("a text has half a surrogate pair".into());
                    }
                    units.push(self.unit()?);
                }
                match char::decode_utf16(units).next() {
                    Some(Ok(character)) => character,
                    _ => return Err("a text has half a surrogate pair".into()),
                }
            }
            _ => return Err("a text has an unknown escape".into()),
        })
    }

    fn unit(&mut self) -> Result<u16, String> {
        let mut unit = 0;
        for _ in 0..4 {
            let digit = self.left.next().and_then(|c| c.to_digit(16));
            unit = unit << 4 | digit.ok_or("a text has an unknown escape")? as u16;
        }
        Ok(unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_python_does() {
        let text = r#" {"b": [1, -2, 1.50, 1e3, true, null], "a": "\ud83d\ude00\n", "b": 3} "#;
        let value = Json::parse(text, None).unwrap();
        assert_eq!(value.members()[0], ("b".into(), Json::Int(3)));
        assert_eq!(value.get("a"), Some(&Json::Text("😀\n".into())));
        assert_eq!(
            Json::parse("[1, 1.50, 1e3, 18446744073709551616]", None),
            Ok(Json::List(vec![
                Json::Int(1),
                Json::Float(1.5),
                Json::Float(1000.0),
                Json::Int(1 << 64)
            ]))
        );
    }

    #[test]
    fn what_is_no_json_is_refused() {
        let deep = "[".repeat(100_000);
        let whole = "9".repeat(60);
        for text in [
            "",
            "{",
            "[1,]",
            "01",
            "-",
            "1.",
            "\"\\ud800\"",
            "\"\\x\"",
            "\"",
            "nul",
            "1 2",
            "\"\n\"",
            "{\"a\" 1}",
            "NaN",
            &deep,
            &whole,
        ] {
            assert!(Json::parse(text, None).is_err(), "{text:.20}");
        }
        let told = Json::parse(r#"{"a": 1, "a": 2}"#, Some(|name| format!("{name} twice")));
        assert_eq!(told, Err("a twice".into()));
    }
}
