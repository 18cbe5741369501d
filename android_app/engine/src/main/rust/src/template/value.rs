// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

//! Python's values: lists, dicts and what they are written as.

use super::budget::{error, require, spend, step, MOST, MOST_DEPTH, MOST_ITEMS};
use crate::json::Json;
use indexmap::IndexMap;
use minijinja::value::{Enumerator, Object, ObjectRepr, ValueKind};
use minijinja::{Error, State, Value};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// A list, a tuple, a range, a view of a dict, or what a generator gives. Nothing changes it.
pub struct List {
    pub items: Vec<Value>,
    pub kind: ListKind,
    depth: usize,
    is_read: AtomicBool,
}

#[derive(Clone, Copy, PartialEq)]
pub enum ListKind {
    List,
    Tuple,
    Range,
    Keys,
    Values,
    Items,
    /// Always true, and read once: a second time Python finds nothing, or what is left.
    Generator,
}

/// A dict. Nothing changes it.
pub struct Dict {
    pub items: IndexMap<Value, Value>,
    depth: usize,
}

/// What `namespace()` makes: the one thing whose members a template sets.
#[derive(Default)]
pub struct Namespace(pub Mutex<IndexMap<String, Value>>);

/// A dict's method that is not called: only true.
pub struct Method;

macro_rules! plain {
    ($($type:ty: $text:literal),*) => {$(
        impl fmt::Debug for $type {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str($text)
            }
        }
    )*};
}
plain!(List: "a list", Dict: "a dict", Namespace: "a namespace", Method: "a method");

impl List {
    /// Whether it is no data by itself: operators do not take it.
    pub fn is_view(&self) -> bool {
        !matches!(self.kind, ListKind::List | ListKind::Tuple)
    }

    /// Whether its elements have numbers.
    pub fn has_places(&self) -> bool {
        !self.is_view() || self.kind == ListKind::Range
    }

    /// The length; a generator has none.
    pub fn length(&self) -> Result<usize, Error> {
        match self.kind {
            ListKind::Generator => Err(error("what a filter gives one by one has no length")),
            _ => Ok(self.items.len()),
        }
    }
}

impl Object for List {
    fn is_true(self: &Arc<Self>) -> bool {
        self.kind == ListKind::Generator || !self.items.is_empty()
    }
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        if self.is_view() {
            ObjectRepr::Iterable
        } else {
            ObjectRepr::Seq
        }
    }
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.items.get(key.as_usize()?).cloned()
    }
    fn enumerate(self: &Arc<Self>) -> Enumerator {
        // An Iterable is not asked for its elements by their numbers.
        if self.is_view() {
            Enumerator::Values(self.items.clone())
        } else {
            Enumerator::Seq(self.items.len())
        }
    }
    fn call_method(
        self: &Arc<Self>,
        _: &State,
        name: &str,
        args: &[Value],
    ) -> Result<Value, Error> {
        super::methods::of_list(self, name, args)
    }
    fn render(self: &Arc<Self>, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a list")
    }
}

impl Object for Dict {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Map
    }
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get(key).cloned()
    }
    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.items.keys().cloned().collect())
    }
    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        Some(self.items.len())
    }
    fn call_method(
        self: &Arc<Self>,
        _: &State,
        name: &str,
        args: &[Value],
    ) -> Result<Value, Error> {
        super::methods::of_dict(self, name, args)
    }
    fn render(self: &Arc<Self>, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a dict")
    }
}

impl Object for Namespace {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.lock().ok()?.get(key.as_str()?).cloned()
    }
}

impl Object for Method {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }
}

/// A value as Python sees it.
pub enum Py<'a> {
    Undefined,
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(&'a str),
    List(&'a List),
    Dict(&'a Dict),
    Other,
}

/// What a value is.
pub fn py(value: &Value) -> Py<'_> {
    match value.kind() {
        ValueKind::Undefined => Py::Undefined,
        ValueKind::None => Py::None,
        ValueKind::Bool => Py::Bool(value.is_true()),
        ValueKind::Number if value.is_integer() => {
            i128::try_from(value.clone()).map_or(Py::Other, Py::Int)
        }
        ValueKind::Number => f64::try_from(value.clone()).map_or(Py::Other, Py::Float),
        ValueKind::String => value.as_str().map_or(Py::Other, Py::Text),
        _ => match (
            value.downcast_object_ref::<List>(),
            value.downcast_object_ref::<Dict>(),
        ) {
            (Some(list), _) => Py::List(list),
            (_, Some(dict)) => Py::Dict(dict),
            _ => Py::Other,
        },
    }
}

/// Python's name of a value's type.
pub fn type_name(value: &Value) -> &'static str {
    match py(value) {
        Py::Undefined => "an undefined value",
        Py::None => "None",
        Py::Bool(_) => "a truth value",
        Py::Int(_) => "a whole number",
        Py::Float(_) => "a number",
        Py::Text(_) => "a text",
        Py::List(list) if list.is_view() => "a view",
        Py::List(_) => "a list",
        Py::Dict(_) => "a dict",
        Py::Other => "this kind of value",
    }
}

/// A text that was made.
pub fn text(made: String) -> Result<Value, Error> {
    spend(made.len() + 48)?;
    Ok(Value::from(made))
}

/// A whole number; those beyond 127 bits are not computed with.
pub fn int(number: Option<i128>) -> Result<Value, Error> {
    let number = number.ok_or_else(|| error("a number is too large"))?;
    Ok(i64::try_from(number).map_or_else(|_| Value::from(number), Value::from))
}

/// A list that was made.
pub fn list(items: Vec<Value>) -> Result<Value, Error> {
    list_of(ListKind::List, items)
}

/// A list, tuple or view.
pub fn list_of(kind: ListKind, items: Vec<Value>) -> Result<Value, Error> {
    require(items.len(), MOST_ITEMS, "a list")?;
    spend(56 + items.len() * std::mem::size_of::<Value>())?;
    let depth = depth_above(items.iter())?;
    Ok(Value::from_object(List {
        items,
        kind,
        depth,
        is_read: AtomicBool::new(false),
    }))
}

/// A dict that was made.
pub fn dict(pairs: Vec<(Value, Value)>) -> Result<Value, Error> {
    require(pairs.len(), MOST_ITEMS, "a dict")?;
    spend(64 + pairs.len() * 4 * std::mem::size_of::<Value>())?;
    if !pairs.iter().all(|(key, _)| is_key(key)) {
        return Err(error(
            "keys of dicts other than texts and whole numbers are not supported here",
        ));
    }
    let items: IndexMap<_, _> = pairs.into_iter().collect();
    let depth = depth_above(items.values())?;
    Ok(Value::from_object(Dict { items, depth }))
}

/// Whether a dict may have it as a key. Looking for any other would read all that it holds.
fn is_key(value: &Value) -> bool {
    matches!(py(value), Py::Text(_) | Py::Int(_))
}

impl Dict {
    /// The member with this key.
    pub fn get(&self, key: &Value) -> Option<&Value> {
        if is_key(key) {
            self.items.get(key)
        } else {
            None
        }
    }
}

/// How deep a value is that holds these. Only data is held: a chain of macros or namespaces could
/// be of any length, and its end would overflow the stack.
fn depth_above<'a>(held: impl Iterator<Item = &'a Value>) -> Result<usize, Error> {
    let mut depth = 0;
    for value in held {
        require_data(value)?;
        depth = depth.max(match py(value) {
            Py::List(list) => list.depth,
            Py::Dict(dict) => dict.depth,
            _ => 0,
        });
    }
    if depth >= MOST_DEPTH {
        return Err(error(format!(
            "values are nested deeper than {MOST_DEPTH} levels: huge"
        )));
    }
    Ok(depth + 1)
}

/// Refuses what is no data.
pub fn require_data(value: &Value) -> Result<(), Error> {
    if matches!(py(value), Py::Other) {
        return Err(error(
            "only texts, numbers, lists and dicts can be kept in others here",
        ));
    }
    Ok(())
}

/// A JSON value for templates.
pub fn from_json(json: &Json) -> Result<Value, Error> {
    Ok(match json {
        Json::Null => Value::from(()),
        Json::Bool(value) => Value::from(*value),
        Json::Int(value) => int(Some(*value))?,
        Json::Float(value) => Value::from(*value),
        Json::Text(value) => Value::from(value.as_str()),
        Json::List(items) => {
            let items = items.iter().map(from_json).collect::<Result<Vec<_>, _>>()?;
            list(items)?
        }
        Json::Object(members) => {
            let pairs = members.iter().map(|(name, value)| {
                Ok::<_, Error>((Value::from(name.as_str()), from_json(value)?))
            });
            dict(pairs.collect::<Result<_, _>>()?)?
        }
    })
}

/// A value of minijinja's own, such as a list that is written out, as one of ours.
pub fn ours(value: &Value) -> Result<Value, Error> {
    if !matches!(py(value), Py::Other) {
        return Ok(value.clone());
    }
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => list(
            value
                .try_iter()?
                .map(|one| ours(&one))
                .collect::<Result<_, _>>()?,
        ),
        ValueKind::Map => {
            let pairs = value.as_object().and_then(|object| object.try_iter_pairs());
            let pairs = pairs
                .into_iter()
                .flatten()
                .map(|(key, one)| Ok((key, ours(&one)?)));
            dict(pairs.collect::<Result<_, Error>>()?)
        }
        _ => Ok(value.clone()),
    }
}

/// What `str()` writes.
pub fn str_of(value: &Value) -> Result<String, Error> {
    let mut out = String::new();
    match py(value) {
        Py::Undefined => {}
        Py::Text(text) => out.push_str(text),
        _ => repr(value, &mut out)?,
    }
    Ok(out)
}

/// What `repr()` writes.
fn repr(value: &Value, out: &mut String) -> Result<(), Error> {
    require(out.len(), MOST, "an output")?;
    match py(value) {
        Py::None => out.push_str("None"),
        Py::Bool(true) => out.push_str("True"),
        Py::Bool(false) => out.push_str("False"),
        Py::Int(number) => out.push_str(&number.to_string()),
        Py::Float(number) => out.push_str(&float_text(number)),
        Py::Text(text) => repr_text(text, out),
        Py::List(list) => {
            let (open, close) = match list.kind {
                ListKind::List => ("[", "]"),
                ListKind::Tuple if list.items.len() == 1 => ("(", ",)"),
                ListKind::Tuple => ("(", ")"),
                ListKind::Keys => ("dict_keys([", "])"),
                ListKind::Values => ("dict_values([", "])"),
                ListKind::Items => ("dict_items([", "])"),
                ListKind::Range | ListKind::Generator => {
                    return Err(error("ranges and generators cannot be written here"));
                }
            };
            out.push_str(open);
            for (at, item) in list.items.iter().enumerate() {
                out.push_str(if at > 0 { ", " } else { "" });
                repr(item, out)?;
            }
            out.push_str(close);
        }
        Py::Dict(dict) => {
            out.push('{');
            for (at, (key, item)) in dict.items.iter().enumerate() {
                out.push_str(if at > 0 { ", " } else { "" });
                repr(key, out)?;
                out.push_str(": ");
                repr(item, out)?;
            }
            out.push('}');
        }
        Py::Undefined => out.push_str("Undefined"),
        Py::Other => return Err(error("this kind of value cannot be written here")),
    }
    Ok(())
}

fn repr_text(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    out.push(quote);
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            _ if character == quote => out.extend(['\\', quote]),
            _ if is_printable(character) => out.push(character),
            _ => match u32::from(character) {
                code @ ..=0xff => out.push_str(&format!("\\x{code:02x}")),
                code @ ..=0xffff => out.push_str(&format!("\\u{code:04x}")),
                code => out.push_str(&format!("\\U{code:08x}")),
            },
        }
    }
    out.push(quote);
}

/// As `str.isprintable`, which has Rust's categories. After a letter, Rust writes marks as they are.
fn is_printable(character: char) -> bool {
    character == '"'
        || character == '\''
        || format!("{:?}", format!("a{character}")).len() == 3 + character.len_utf8()
}

/// What Python writes for a float.
pub fn float_text(number: f64) -> String {
    if number.is_nan() {
        return "nan".into();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.into();
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>() {
        Ok(exponent) if !(-4..16).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
        }
        _ => {
            let plain = format!("{number}");
            if plain.contains('.') {
                plain
            } else {
                plain + ".0"
            }
        }
    }
}

/// Whether two values are equal in Python.
pub fn equal(one: &Value, other: &Value) -> Result<bool, Error> {
    Ok(match (py(one), py(other)) {
        (Py::Undefined, Py::Undefined) | (Py::None, Py::None) => true,
        (Py::Text(a), Py::Text(b)) => {
            step(a.len().min(b.len()) >> 12)?;
            a == b
        }
        (Py::List(a), Py::List(b)) => {
            step(1)?;
            if a.is_view() || b.is_view() {
                return Err(error(
                    "views, ranges and generators cannot be compared here",
                ));
            }
            a.kind == b.kind && a.items.len() == b.items.len() && {
                for (x, y) in a.items.iter().zip(&b.items) {
                    if !equal(x, y)? {
                        return Ok(false);
                    }
                }
                true
            }
        }
        (Py::Dict(a), Py::Dict(b)) => {
            step(1)?;
            a.items.len() == b.items.len() && {
                for (key, x) in &a.items {
                    match b.items.get(key) {
                        Some(y) if equal(x, y)? => {}
                        _ => return Ok(false),
                    }
                }
                true
            }
        }
        (Py::Other, _) | (_, Py::Other) => {
            return Err(error("this kind of value cannot be compared here"))
        }
        (a, b) => match (number(&a), number(&b)) {
            (Some(Number::Int(a)), Some(Number::Int(b))) => a == b,
            (Some(a), Some(b)) => a.float() == b.float(),
            _ => false,
        },
    })
}

/// A number of Python's; truth values are numbers too.
#[derive(Clone, Copy)]
pub enum Number {
    Int(i128),
    Float(f64),
}

impl Number {
    pub fn float(self) -> f64 {
        match self {
            Number::Int(number) => number as f64,
            Number::Float(number) => number,
        }
    }
}

pub fn number(value: &Py) -> Option<Number> {
    match *value {
        Py::Bool(value) => Some(Number::Int(value.into())),
        Py::Int(value) => Some(Number::Int(value)),
        Py::Float(value) => Some(Number::Float(value)),
        _ => None,
    }
}

/// What a loop over a value gives. Python's Undefined has nothing.
pub fn elements(value: &Value) -> Result<Vec<Value>, Error> {
    let items: Vec<Value> = match py(value) {
        Py::Undefined => Vec::new(),
        Py::List(list) => {
            if list.kind == ListKind::Generator && list.is_read.swap(true, Ordering::Relaxed) {
                return Err(error(
                    "what a filter gives one by one can be read once here",
                ));
            }
            list.items.clone()
        }
        Py::Dict(dict) => dict.items.keys().cloned().collect(),
        Py::Text(text) => {
            require(text.len(), MOST_ITEMS, "a list")?;
            text.chars().map(Value::from).collect()
        }
        _ => return Err(error(format!("{} has no elements", type_name(value)))),
    };
    step(1 + items.len() / 64)?;
    spend(items.len() * std::mem::size_of::<Value>())?;
    Ok(items)
}
