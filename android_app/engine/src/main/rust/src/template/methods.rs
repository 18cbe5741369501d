// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

//! Methods of Python's texts, lists and dicts that templates use. Others are refused.

use super::budget::{error, require, step, MOST};
use super::value::{
    elements, equal, list, list_of, py, str_of, text, type_name, Dict, List, ListKind, Py,
};
use minijinja::{Error, ErrorKind, Value};

/// The arguments of a call, by the names that they may have; more are refused.
pub fn given<const N: usize>(
    what: &str,
    args: &[Value],
    names: [&str; N],
) -> Result<[Option<Value>; N], Error> {
    let mut found = [const { None }; N];
    let mut named = Vec::new();
    let mut count = 0;
    for arg in args {
        if arg.is_kwargs() {
            let pairs = arg.as_object().and_then(|object| object.try_iter_pairs());
            named.extend(pairs.into_iter().flatten());
        } else if count < N {
            found[count] = Some(arg.clone());
            count += 1;
        } else {
            return Err(error(format!("{what} takes at most {N} arguments here")));
        }
    }
    for (name, value) in named {
        let place = names.iter().position(|one| Some(*one) == name.as_str());
        match place {
            Some(place) if found[place].is_none() => found[place] = Some(value),
            _ => {
                return Err(error(format!(
                    "{what} does not take the argument {} here",
                    str_of(&name)?
                )))
            }
        }
    }
    Ok(found)
}

fn unknown(owner: &str, name: &str) -> Error {
    Error::new(
        ErrorKind::UnknownMethod,
        format!("the method {name} of {owner} is not supported here"),
    )
}

/// White space as Python strips it.
pub fn is_space(character: char) -> bool {
    character.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&character)
}

/// `text.strip(chars)` at the ends that are asked for.
pub fn strip<'a>(
    whole: &'a str,
    chars: Option<&Value>,
    start: bool,
    end: bool,
) -> Result<&'a str, Error> {
    let chars: Option<Vec<char>> = match chars.map(py) {
        None | Some(Py::None) => None,
        Some(Py::Text(chars)) => Some(chars.chars().collect()),
        _ => return Err(error("strip takes a text of characters")),
    };
    let goes = |one: char| {
        chars
            .as_ref()
            .map_or(is_space(one), |chars| chars.contains(&one))
    };
    let whole = if start {
        whole.trim_start_matches(goes)
    } else {
        whole
    };
    Ok(if end {
        whole.trim_end_matches(goes)
    } else {
        whole
    })
}

/// `text.capitalize()`.
pub fn capitalize(whole: &str) -> Result<String, Error> {
    let mut chars = whole.chars();
    let Some(first) = chars.next() else {
        return Ok(String::new());
    };
    Ok(titled(first)? + &lower(chars.as_str())?)
}

/// The first letter of a title. A few have a form for titles only, which Rust does not know.
pub fn titled(first: char) -> Result<String, Error> {
    let is_special =
        matches!(first, '\u{1c4}'..='\u{1cc}' | '\u{1f1}'..='\u{1f3}' | '\u{10d0}'..='\u{10ff}');
    let upper: String = first.to_uppercase().collect();
    if is_special || upper.chars().count() > 1 {
        return Err(error(format!(
            "the title form of {first:?} is not supported here"
        )));
    }
    Ok(upper)
}

/// `text.lower()`.
pub fn lower(whole: &str) -> Result<String, Error> {
    Ok(whole.to_lowercase())
}

/// `text.title()`.
pub fn title(whole: &str) -> Result<String, Error> {
    let mut made = String::new();
    let mut in_word = false;
    for character in whole.chars() {
        match (character.is_alphabetic(), in_word) {
            (true, false) => made += &titled(character)?,
            (true, true) => made.extend(character.to_lowercase()),
            _ => made.push(character),
        }
        in_word = character.is_alphabetic();
    }
    Ok(made)
}

/// `text.replace(old, new, count)`.
pub fn replace(
    whole: &str,
    old: &Value,
    new: &Value,
    count: Option<&Value>,
) -> Result<Value, Error> {
    let (Py::Text(old), Py::Text(new)) = (py(old), py(new)) else {
        return Err(error("replace takes texts"));
    };
    let most = match count.map(py) {
        None | Some(Py::None) => usize::MAX,
        Some(Py::Int(count)) => usize::try_from(count).unwrap_or(usize::MAX),
        _ => return Err(error("replace takes a whole number as its count")),
    };
    step(whole.len() >> 12)?;
    let found = whole.matches(old).take(most).count();
    require(
        whole.len() + found.saturating_mul(new.len()),
        4 * MOST,
        "a call of replace",
    )?;
    text(whole.replacen(old, new, most))
}

/// `text.join(values)`.
pub fn join(between: &str, pieces: &[String]) -> Result<Value, Error> {
    let length: usize = pieces.iter().map(|piece| piece.len() + between.len()).sum();
    require(length, 4 * MOST, "a join")?;
    text(pieces.join(between))
}

/// A method of a text.
pub fn of_text(owner: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    step(1)?;
    let Py::Text(whole) = py(owner) else {
        return Err(unknown(type_name(owner), name));
    };
    step(whole.len() >> 12)?;
    let what = format!("a call of {name}");
    let none = || given(&what, args, []).map(|_: [_; 0]| ());
    let one = |of: &'static str| given(&what, args, [of]).map(|[value]| value);
    let is = |all: fn(char) -> bool| {
        none().map(|()| Value::from(!whole.is_empty() && whole.chars().all(all)))
    };
    match name {
        "strip" => text(strip(whole, one("")?.as_ref(), true, true)?.into()),
        "lstrip" => text(strip(whole, one("")?.as_ref(), true, false)?.into()),
        "rstrip" => text(strip(whole, one("")?.as_ref(), false, true)?.into()),
        "upper" => none().and_then(|()| text(whole.to_uppercase())),
        "lower" => none().and_then(|()| text(lower(whole)?)),
        "title" => none().and_then(|()| text(title(whole)?)),
        "capitalize" => none().and_then(|()| text(capitalize(whole)?)),
        "startswith" => begins(whole, one("")?, |whole, part| whole.starts_with(part)),
        "endswith" => begins(whole, one("")?, |whole, part| whole.ends_with(part)),
        "removeprefix" | "removesuffix" => {
            let part = one("")?.unwrap_or_default();
            let Py::Text(part) = py(&part) else {
                return Err(error(format!("{what} takes a text")));
            };
            let rest = if name == "removeprefix" {
                whole.strip_prefix(part)
            } else {
                whole.strip_suffix(part)
            };
            text(rest.unwrap_or(whole).into())
        }
        "find" | "rfind" | "count" | "index" => {
            let part = one("")?.unwrap_or_default();
            let Py::Text(part) = py(&part) else {
                return Err(error(format!("{what} takes a text")));
            };
            let place = match name {
                "count" => return Ok(Value::from(whole.matches(part).count())),
                "rfind" => whole.rfind(part),
                _ => whole.find(part),
            };
            match place {
                Some(place) => Ok(Value::from(whole[..place].chars().count())),
                None if name == "index" => Err(error("substring not found")),
                None => Ok(Value::from(-1)),
            }
        }
        "replace" => match given(&what, args, ["", "", "count"])? {
            [Some(old), Some(new), count] => replace(whole, &old, &new, count.as_ref()),
            _ => Err(error("replace takes two texts")),
        },
        "split" | "rsplit" => {
            let [between, most] = given(&what, args, ["sep", "maxsplit"])?;
            split(whole, between.as_ref(), most.as_ref(), name == "rsplit")
        }
        "splitlines" => {
            let keeps = one("keepends")?.is_some_and(|keeps| keeps.is_true());
            list(lines(whole, keeps).into_iter().map(Value::from).collect())
        }
        "partition" | "rpartition" => {
            let between = one("")?.unwrap_or_default();
            let between = between.as_str().filter(|text| !text.is_empty());
            let between = between.ok_or_else(|| error(format!("{what} takes a text")))?;
            let found = if name == "partition" {
                whole.split_once(between)
            } else {
                whole.rsplit_once(between)
            };
            let parts = match found {
                Some((left, right)) => [left, between, right],
                None if name == "partition" => [whole, "", ""],
                None => ["", "", whole],
            };
            list_of(ListKind::Tuple, parts.map(Value::from).into())
        }
        "join" => {
            let items = elements(&one("")?.unwrap_or_default())?;
            let texts = items.iter().map(|item| match py(item) {
                Py::Text(text) => Ok(text.to_owned()),
                _ => Err(error(format!(
                    "join takes texts only, not {}",
                    type_name(item)
                ))),
            });
            join(whole, &texts.collect::<Result<Vec<_>, _>>()?)
        }
        "isspace" => is(is_space),
        "isalpha" if whole.is_ascii() => is(|one| one.is_ascii_alphabetic()),
        "isdigit" | "isnumeric" | "isdecimal" if whole.is_ascii() => is(|one| one.is_ascii_digit()),
        "isalnum" if whole.is_ascii() => is(|one| one.is_ascii_alphanumeric()),
        "isascii" => none().map(|()| Value::from(whole.is_ascii())),
        "isupper" | "islower" if whole.is_ascii() => {
            let has_upper = whole.bytes().any(|one| one.is_ascii_uppercase());
            let has_lower = whole.bytes().any(|one| one.is_ascii_lowercase());
            let is_upper = name == "isupper";
            none().map(|()| Value::from(has_upper == is_upper && has_lower != is_upper))
        }
        _ => Err(unknown("a text", name)),
    }
}

fn begins(whole: &str, parts: Option<Value>, is: fn(&str, &str) -> bool) -> Result<Value, Error> {
    let parts = parts.unwrap_or_default();
    let wrong = || error("startswith and endswith take a text, or a tuple of texts");
    Ok(Value::from(match py(&parts) {
        Py::Text(part) => is(whole, part),
        Py::List(list) => {
            let texts = list.items.iter().map(|one| one.as_str().ok_or_else(wrong));
            texts
                .collect::<Result<Vec<_>, _>>()?
                .iter()
                .any(|part| is(whole, part))
        }
        _ => return Err(wrong()),
    }))
}

fn split(
    whole: &str,
    between: Option<&Value>,
    most: Option<&Value>,
    from_end: bool,
) -> Result<Value, Error> {
    let most = match most.map(py) {
        None => usize::MAX,
        Some(Py::Int(most)) => usize::try_from(most).unwrap_or(usize::MAX),
        _ => return Err(error("split takes a whole number as its limit")),
    };
    let most = most.saturating_add(1);
    let mut pieces: Vec<&str> = match between.map(py) {
        Some(Py::Text("")) => return Err(error("empty separator")),
        Some(Py::Text(between)) if from_end => whole.rsplitn(most, between).collect(),
        Some(Py::Text(between)) => whole.splitn(most, between).collect(),
        None | Some(Py::None) => words(whole, most, from_end),
        _ => return Err(error("split takes a text")),
    };
    if from_end {
        pieces.reverse();
    }
    list(pieces.into_iter().map(Value::from).collect())
}

/// Words between white space; the last of `most` is the rest.
fn words(whole: &str, most: usize, from_end: bool) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut left = whole;
    loop {
        left = if from_end {
            left.trim_end_matches(is_space)
        } else {
            left.trim_start_matches(is_space)
        };
        if left.is_empty() {
            return pieces;
        }
        let end = if from_end {
            left.rfind(is_space)
        } else {
            left.find(is_space)
        };
        match end {
            Some(at) if pieces.len() + 1 < most => {
                let space = left[at..].chars().next().map_or(1, char::len_utf8);
                let (piece, rest) = if from_end {
                    (&left[at + space..], &left[..at])
                } else {
                    (&left[..at], &left[at..])
                };
                pieces.push(piece);
                left = rest;
            }
            _ => {
                pieces.push(left);
                return pieces;
            }
        }
    }
}

/// Lines as Python splits them.
pub fn lines(whole: &str, keeps: bool) -> Vec<&str> {
    let ends = |c: char| {
        matches!(
            c,
            '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'
                ..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    let mut found = Vec::new();
    let mut left = whole;
    while let Some(at) = left.find(ends) {
        let end = if left[at..].starts_with("\r\n") {
            2
        } else {
            left[at..].chars().next().map_or(1, char::len_utf8)
        };
        found.push(&left[..if keeps { at + end } else { at }]);
        left = &left[at + end..];
    }
    if !left.is_empty() {
        found.push(left);
    }
    found
}

/// A method of a list.
pub fn of_list(owner: &List, name: &str, args: &[Value]) -> Result<Value, Error> {
    step(1)?;
    let what = format!("a call of {name}");
    match name {
        "count" | "index" if !owner.is_view() => {
            let [wanted] = given(&what, args, [""])?;
            let wanted = wanted.unwrap_or_default();
            let mut count = 0;
            for (at, item) in owner.items.iter().enumerate() {
                if equal(item, &wanted)? {
                    if name == "index" {
                        return Ok(Value::from(at));
                    }
                    count += 1;
                }
            }
            if name == "index" {
                Err(error("the value is not in the list"))
            } else {
                Ok(Value::from(count))
            }
        }
        _ => Err(unknown("a list", name)),
    }
}

/// A method of a dict.
pub fn of_dict(owner: &Dict, name: &str, args: &[Value]) -> Result<Value, Error> {
    step(1)?;
    let what = format!("a call of {name}");
    if matches!(name, "items" | "keys" | "values") {
        let [] = given(&what, args, [])?;
    }
    match name {
        "items" => list_of(ListKind::Items, pairs(owner)?),
        "keys" => list_of(ListKind::Keys, owner.items.keys().cloned().collect()),
        "values" => list_of(ListKind::Values, owner.items.values().cloned().collect()),
        "get" => {
            let [key, otherwise] = given(&what, args, ["", ""])?;
            let found = key.and_then(|key| owner.get(&key).cloned());
            Ok(found.or(otherwise).unwrap_or_else(|| Value::from(())))
        }
        _ => Err(unknown("a dict", name)),
    }
}

/// Its keys and values.
pub fn pairs(owner: &Dict) -> Result<Vec<Value>, Error> {
    let items = owner.items.iter();
    items
        .map(|(key, value)| list_of(ListKind::Tuple, vec![key.clone(), value.clone()]))
        .collect()
}
