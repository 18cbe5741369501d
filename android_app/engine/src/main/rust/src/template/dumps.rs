// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

//! JSON as `json.dumps` writes it.

use super::budget::{error, require, MOST};
use super::value::{float_text, py, str_of, Dict, ListKind, Py};
use minijinja::{Error, Value};
use std::cmp::Ordering;

const MOST_INDENT: i128 = 64;

/// How JSON is written.
pub struct Style {
    pub ascii: bool,
    pub indent: Option<usize>,
    pub between: String,
    pub after_name: String,
    pub sort: bool,
}

impl Style {
    /// With the arguments of the filter.
    pub fn new(
        ascii: bool,
        indent: Option<&Value>,
        separators: Option<&Value>,
        sort: bool,
    ) -> Result<Style, Error> {
        let indent = match indent.map(py) {
            None | Some(Py::None | Py::Undefined) => None,
            Some(Py::Int(count @ 0..=MOST_INDENT)) => Some(count as usize),
            Some(Py::Int(_)) => return Err(error("the filter tojson has a huge indent")),
            _ => {
                return Err(error(
                    "the filter tojson takes an indent of spaces only, by their number",
                ))
            }
        };
        let (mut between, mut after_name) = (
            if indent.is_some() { "," } else { ", " }.to_owned(),
            ": ".to_owned(),
        );
        match separators.map(py) {
            None | Some(Py::None | Py::Undefined) => {}
            Some(Py::List(list)) if list.items.len() == 2 => {
                (between, after_name) = (str_of(&list.items[0])?, str_of(&list.items[1])?);
            }
            _ => return Err(error("separators of tojson are two texts")),
        }
        Ok(Style {
            ascii,
            indent,
            between,
            after_name,
            sort,
        })
    }

    /// A value as JSON.
    pub fn write(&self, value: &Value) -> Result<String, Error> {
        let mut out = String::new();
        self.add(value, 0, &mut out)?;
        Ok(out)
    }

    fn add(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        require(out.len(), MOST, "the filter tojson")?;
        match py(value) {
            Py::None => out.push_str("null"),
            Py::Bool(true) => out.push_str("true"),
            Py::Bool(false) => out.push_str("false"),
            Py::Int(number) => out.push_str(&number.to_string()),
            Py::Float(number) if number.is_nan() => out.push_str("NaN"),
            Py::Float(f64::INFINITY) => out.push_str("Infinity"),
            Py::Float(f64::NEG_INFINITY) => out.push_str("-Infinity"),
            Py::Float(number) => out.push_str(&float_text(number)),
            Py::Text(text) => self.add_text(text, out),
            Py::List(list) if matches!(list.kind, ListKind::List | ListKind::Tuple) => {
                out.push('[');
                for (at, item) in list.items.iter().enumerate() {
                    self.begin(at, depth + 1, out);
                    self.add(item, depth + 1, out)?;
                }
                self.end(list.items.len(), depth, out);
                out.push(']');
            }
            Py::Dict(dict) => {
                out.push('{');
                for (at, (name, item)) in self.members(dict)?.into_iter().enumerate() {
                    self.begin(at, depth + 1, out);
                    self.add_text(&str_of(name)?, out);
                    out.push_str(&self.after_name);
                    self.add(item, depth + 1, out)?;
                }
                self.end(dict.items.len(), depth, out);
                out.push('}');
            }
            _ => {
                return Err(error(format!(
                    "{} is not JSON serializable",
                    super::value::type_name(value)
                )))
            }
        }
        Ok(())
    }

    fn members<'a>(&self, dict: &'a Dict) -> Result<Vec<(&'a Value, &'a Value)>, Error> {
        let mut members: Vec<_> = dict.items.iter().collect();
        if self.sort {
            let mut failure = None;
            members.sort_by(|(a, _), (b, _)| match super::ops::compare(a, b) {
                Ok(order) => order.unwrap_or(Ordering::Equal),
                Err(told) => {
                    failure = Some(told);
                    Ordering::Equal
                }
            });
            failure.map_or(Ok(()), Err)?;
        }
        Ok(members)
    }

    fn begin(&self, at: usize, depth: usize, out: &mut String) {
        out.push_str(if at > 0 { &self.between } else { "" });
        self.line(depth, out);
    }

    fn end(&self, count: usize, depth: usize, out: &mut String) {
        if count > 0 {
            self.line(depth, out);
        }
    }

    fn line(&self, depth: usize, out: &mut String) {
        if let Some(indent) = self.indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent * depth));
        }
    }

    fn add_text(&self, text: &str, out: &mut String) {
        out.push('"');
        for character in text.chars() {
            match character {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                _ if character < ' ' || self.ascii && !character.is_ascii() => {
                    for unit in character.encode_utf16(&mut [0; 2]) {
                        out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                _ => out.push(character),
            }
        }
        out.push('"');
    }
}
