// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

//! Filters, tests and functions of Jinja that templates use, as Jinja has them. Others are refused.

use super::budget::{error, raise, require, step, MOST};
use super::dumps::Style;
use super::methods::{capitalize, given, is_space, join, lines, lower, pairs, replace, strip};
use super::ops::{compare, contains, sorted};
use super::syntax::ELEMENTS;
use super::value::{
    dict, elements, equal, int, list, list_of, number, py, require_data, str_of, text, type_name,
    ListKind, Namespace, Number, Py,
};
use minijinja::value::Rest;
use minijinja::{Environment, Error, State, Value};
use std::cmp::Ordering;

type Filter = fn(&State, &Value, &[Value]) -> Result<Value, Error>;
type Test = fn(&Value, &[Value]) -> Result<bool, Error>;

/// Adds all of them.
pub fn add_to(environment: &mut Environment<'_>) {
    let filters: [(&'static str, Filter); 40] = [
        ("abs", |_, of, _| absolute(of)),
        ("batch", |_, of, args| batch(of, args)),
        ("capitalize", |_, of, _| text(capitalize(&str_of(of)?)?)),
        ("count", |_, of, _| length(of)),
        ("d", |_, of, args| otherwise(of, args)),
        ("default", |_, of, args| otherwise(of, args)),
        ("dictsort", |_, of, args| dictsort(of, args)),
        ("first", |_, of, _| {
            Ok(elements(of)?.first().cloned().unwrap_or_default())
        }),
        ("float", |_, of, args| to_float(of, args)),
        ("indent", |_, of, args| indent(of, args)),
        ("int", |_, of, args| to_int(of, args)),
        ("items", |_, of, _| items(of)),
        ("join", |_, of, args| join_filter(of, args)),
        ("last", |_, of, _| last(of)),
        ("length", |_, of, _| length(of)),
        ("list", |_, of, _| list(elements(of)?)),
        ("lower", |_, of, _| text(lower(&str_of(of)?)?)),
        ("map", map),
        ("max", |_, of, args| extreme(of, args, Ordering::Greater)),
        ("min", |_, of, args| extreme(of, args, Ordering::Less)),
        ("reject", |state, of, args| {
            select(state, of, args, false, false)
        }),
        ("rejectattr", |state, of, args| {
            select(state, of, args, true, false)
        }),
        ("replace", |_, of, args| replace_filter(of, args)),
        ("reverse", |_, of, _| reverse(of)),
        ("round", |_, of, args| round(of, args)),
        ("select", |state, of, args| {
            select(state, of, args, false, true)
        }),
        ("selectattr", |state, of, args| {
            select(state, of, args, true, true)
        }),
        ("slice", |_, of, args| slice(of, args)),
        ("sort", |_, of, args| sort(of, args)),
        ("string", |_, of, _| text(str_of(of)?)),
        ("sum", |_, of, args| sum(of, args)),
        ("title", |_, of, _| title(of)),
        ("tojson", |_, of, args| tojson(of, args)),
        ("trim", |_, of, args| {
            let [chars] = given("the filter trim", args, ["chars"])?;
            text(strip(&str_of(of)?, chars.as_ref(), true, true)?.into())
        }),
        ("unique", |_, of, args| unique(of, args)),
        ("upper", |_, of, _| text(str_of(of)?.to_uppercase())),
        (ELEMENTS, |_, of, _| list(elements(of)?)),
        ("wordcount", |_, of, _| wordcount(of)),
        // `safe` and escapes are taken where a value is written at once (program.rs).
        ("\0safe", |_, of, _| Ok(of.clone())),
        ("\0escape", |_, of, _| escape(of)),
    ];
    for (name, filter) in filters {
        environment.add_filter(name, move |state: &State, of: &Value, args: Rest<Value>| {
            step(1)?;
            filter(state, of, &args)
        });
    }
    add_tests(environment);
    add_functions(environment);
}

fn add_tests(environment: &mut Environment<'_>) {
    let tests: [(&'static str, Test); 34] = [
        ("defined", |of, _| Ok(!of.is_undefined())),
        ("undefined", |of, _| Ok(of.is_undefined())),
        ("none", |of, _| Ok(of.is_none())),
        ("string", |of, _| Ok(matches!(py(of), Py::Text(_)))),
        ("mapping", |of, _| Ok(matches!(py(of), Py::Dict(_)))),
        // What has a length and members by a key or number: Python counts texts and dicts.
        ("sequence", |of, _| {
            Ok(match py(of) {
                Py::Text(_) | Py::Dict(_) => true,
                Py::List(list) => list.has_places(),
                _ => false,
            })
        }),
        ("iterable", |of, _| {
            Ok(matches!(
                py(of),
                Py::Text(_) | Py::Dict(_) | Py::List(_) | Py::Undefined
            ))
        }),
        ("number", |of, _| Ok(number(&py(of)).is_some())),
        ("integer", |of, _| Ok(matches!(py(of), Py::Int(_)))),
        ("float", |of, _| Ok(matches!(py(of), Py::Float(_)))),
        ("boolean", |of, _| Ok(matches!(py(of), Py::Bool(_)))),
        ("true", |of, _| Ok(matches!(py(of), Py::Bool(true)))),
        ("false", |of, _| Ok(matches!(py(of), Py::Bool(false)))),
        ("callable", |of, _| Ok(matches!(py(of), Py::Other))),
        ("odd", |of, _| remainder(of, 2).map(|rest| rest == 1)),
        ("even", |of, _| remainder(of, 2).map(|rest| rest == 0)),
        ("divisibleby", |of, args| match args.first().map(py) {
            Some(Py::Int(by)) if by != 0 => remainder(of, by).map(|rest| rest == 0),
            _ => Err(error("divisibleby takes a whole number")),
        }),
        ("in", |of, args| contains(second(args)?, of)),
        ("eq", |of, args| equal(of, second(args)?)),
        ("==", |of, args| equal(of, second(args)?)),
        ("equalto", |of, args| equal(of, second(args)?)),
        ("ne", |of, args| equal(of, second(args)?).map(|same| !same)),
        ("!=", |of, args| equal(of, second(args)?).map(|same| !same)),
        ("lt", |of, args| {
            Ok(compare(of, second(args)?)? == Some(Ordering::Less))
        }),
        ("<", |of, args| {
            Ok(compare(of, second(args)?)? == Some(Ordering::Less))
        }),
        ("lessthan", |of, args| {
            Ok(compare(of, second(args)?)? == Some(Ordering::Less))
        }),
        ("gt", |of, args| {
            Ok(compare(of, second(args)?)? == Some(Ordering::Greater))
        }),
        (">", |of, args| {
            Ok(compare(of, second(args)?)? == Some(Ordering::Greater))
        }),
        ("greaterthan", |of, args| {
            Ok(compare(of, second(args)?)? == Some(Ordering::Greater))
        }),
        ("le", |of, args| {
            Ok(compare(of, second(args)?)?.is_some_and(Ordering::is_le))
        }),
        ("<=", |of, args| {
            Ok(compare(of, second(args)?)?.is_some_and(Ordering::is_le))
        }),
        ("ge", |of, args| {
            Ok(compare(of, second(args)?)?.is_some_and(Ordering::is_ge))
        }),
        (">=", |of, args| {
            Ok(compare(of, second(args)?)?.is_some_and(Ordering::is_ge))
        }),
        ("escaped", |_, _| Ok(false)),
    ];
    for (name, test) in tests {
        environment.add_test(name, move |of: &Value, args: Rest<Value>| {
            step(1)?;
            test(of, &args)
        });
    }
}

fn add_functions(environment: &mut Environment<'_>) {
    environment.add_function("range", |args: Rest<Value>| range(&args));
    environment.add_function("dict", |args: Rest<Value>| dict(named("dict", &args)?));
    environment.add_function("namespace", |args: Rest<Value>| {
        let namespace = Namespace::default();
        let members = named("namespace", &args)?;
        for (name, value) in &members {
            require_data(value)?;
            if let Ok(mut members) = namespace.0.lock() {
                members.insert(str_of(name)?, value.clone());
            }
        }
        Ok::<_, Error>(Value::from_object(namespace))
    });
    environment.add_function(
        "raise_exception",
        |message: Value| -> Result<Value, Error> { Err(raise(str_of(&message)?)) },
    );
    environment.add_function("strftime_now", |form: String| super::clock::now(&form));
}

fn second(args: &[Value]) -> Result<&Value, Error> {
    args.first()
        .ok_or_else(|| error("a test lacks its argument"))
}

fn remainder(of: &Value, by: i128) -> Result<i128, Error> {
    match number(&py(of)) {
        Some(Number::Int(number)) => Ok(number.rem_euclid(by)),
        _ => Err(error(format!("{} is not a whole number", type_name(of)))),
    }
}

/// Members by their names; a dict may come first.
fn named(what: &str, args: &[Value]) -> Result<Vec<(Value, Value)>, Error> {
    step(1)?;
    let mut members = Vec::new();
    for arg in args {
        match py(arg) {
            Py::Dict(dict) => {
                members.extend(
                    dict.items
                        .iter()
                        .map(|(key, value)| (key.clone(), value.clone())),
                );
            }
            _ if arg.is_kwargs() => {
                let pairs = arg.as_object().and_then(|object| object.try_iter_pairs());
                members.extend(pairs.into_iter().flatten());
            }
            _ => return Err(error(format!("{what} takes named members here"))),
        }
    }
    Ok(members)
}

fn range(args: &[Value]) -> Result<Value, Error> {
    let mut bounds = [0, 0, 1];
    let numbers = args.iter().map(|arg| match number(&py(arg)) {
        Some(Number::Int(number)) => Ok(number),
        _ => Err(error(format!(
            "range takes whole numbers, not {}",
            type_name(arg)
        ))),
    });
    match numbers.collect::<Result<Vec<_>, _>>()?[..] {
        [end] => bounds[1] = end,
        [start, end] => (bounds[0], bounds[1]) = (start, end),
        [start, end, by] if by != 0 => bounds = [start, end, by],
        _ => {
            return Err(error(
                "range takes one to three whole numbers, and no step of 0",
            ))
        }
    }
    let [start, end, by] = bounds;
    let count = if by > 0 {
        (end - start + by - 1) / by
    } else {
        (start - end - by - 1) / -by
    };
    let count = usize::try_from(count.max(0)).unwrap_or(usize::MAX);
    step(1 + count)?;
    let numbers = (0..count).map(|at| Value::from((start + at as i128 * by) as i64));
    list_of(ListKind::Range, numbers.collect())
}

fn length(of: &Value) -> Result<Value, Error> {
    Ok(Value::from(match py(of) {
        Py::Undefined => 0,
        Py::Text(whole) => whole.chars().count(),
        Py::List(list) => list.length()?,
        Py::Dict(dict) => dict.items.len(),
        _ => return Err(error(format!("{} has no length", type_name(of)))),
    }))
}

fn otherwise(of: &Value, args: &[Value]) -> Result<Value, Error> {
    let [value, also_false] = given("the filter default", args, ["default_value", "boolean"])?;
    let takes = of.is_undefined() || also_false.is_some_and(|yes| yes.is_true()) && !of.is_true();
    Ok(if takes {
        value.unwrap_or_else(|| Value::from(""))
    } else {
        of.clone()
    })
}

fn tojson(of: &Value, args: &[Value]) -> Result<Value, Error> {
    let names = ["ensure_ascii", "indent", "separators", "sort_keys"];
    let [ascii, indent, separators, sort] = given("the filter tojson", args, names)?;
    let yes = |value: Option<Value>| value.is_some_and(|value| value.is_true());
    text(Style::new(yes(ascii), indent.as_ref(), separators.as_ref(), yes(sort))?.write(of)?)
}

fn escape(of: &Value) -> Result<Value, Error> {
    let mut made = String::new();
    for character in str_of(of)?.chars() {
        match character {
            '&' => made.push_str("&amp;"),
            '<' => made.push_str("&lt;"),
            '>' => made.push_str("&gt;"),
            '\'' => made.push_str("&#39;"),
            '"' => made.push_str("&#34;"),
            other => made.push(other),
        }
    }
    text(made)
}

fn items(of: &Value) -> Result<Value, Error> {
    match py(of) {
        Py::Undefined => generated(Vec::new()),
        Py::Dict(dict) => generated(pairs(dict)?),
        _ => Err(error("the filter items takes a dict")),
    }
}

/// A member by a name like `function.name` or a number.
fn member(of: &Value, path: &Value, otherwise: Option<&Value>) -> Result<Value, Error> {
    let mut value = of.clone();
    let path = str_of(path)?;
    for part in path.split('.') {
        value = match (py(&value), part.parse::<usize>()) {
            (Py::Dict(dict), Err(_)) => dict
                .items
                .get(&Value::from(part))
                .cloned()
                .unwrap_or_default(),
            (Py::List(list), Ok(at)) => list.items.get(at).cloned().unwrap_or_default(),
            (Py::Undefined, _) => return Err(error(format!("an undefined value has no {part}"))),
            (Py::Other, Err(_)) => value.get_attr(part)?,
            _ => Value::UNDEFINED,
        };
        if let (true, Some(otherwise)) = (value.is_undefined(), otherwise) {
            value = otherwise.clone();
        }
    }
    Ok(value)
}

/// What a filter with an argument `attribute` reads of each element.
fn keyed(of: &Value, attribute: Option<&Value>) -> Result<Vec<(Value, Value)>, Error> {
    let key = |item: Value| match attribute.map(py) {
        None | Some(Py::None) => Ok((item.clone(), item)),
        _ => Ok((
            member(&item, attribute.unwrap_or(&Value::UNDEFINED), None)?,
            item,
        )),
    };
    elements(of)?.into_iter().map(key).collect()
}

/// Without a difference of case, as Jinja compares texts unless it is told.
fn without_case(mut items: Vec<(Value, Value)>, case: Option<&Value>) -> Vec<(Value, Value)> {
    if !case.is_some_and(Value::is_true) {
        for (key, _) in &mut items {
            if let Py::Text(whole) = py(key) {
                *key = Value::from(whole.to_lowercase());
            }
        }
    }
    items
}

fn sort(of: &Value, args: &[Value]) -> Result<Value, Error> {
    let [reverse, case, attribute] = given(
        "the filter sort",
        args,
        ["reverse", "case_sensitive", "attribute"],
    )?;
    if attribute
        .as_ref()
        .and_then(Value::as_str)
        .is_some_and(|name| name.contains(','))
    {
        return Err(error("the filter sort takes one attribute here"));
    }
    let items = without_case(keyed(of, attribute.as_ref())?, case.as_ref());
    list(sorted(items, reverse.is_some_and(|yes| yes.is_true()))?)
}

fn dictsort(of: &Value, args: &[Value]) -> Result<Value, Error> {
    let [case, by, reverse] = given(
        "the filter dictsort",
        args,
        ["case_sensitive", "by", "reverse"],
    )?;
    let Py::Dict(dict) = py(of) else {
        return Err(error("the filter dictsort takes a dict"));
    };
    let place = match by.as_ref().map(py) {
        None | Some(Py::Text("key")) => 0,
        Some(Py::Text("value")) => 1,
        _ => return Err(error("dictsort sorts by key or value")),
    };
    let items = pairs(dict)?.into_iter().map(|pair| {
        let key = match py(&pair) {
            Py::List(pair) => pair.items[place].clone(),
            _ => Value::UNDEFINED,
        };
        (key, pair)
    });
    list(sorted(
        without_case(items.collect(), case.as_ref()),
        reverse.is_some_and(|yes| yes.is_true()),
    )?)
}

fn unique(of: &Value, args: &[Value]) -> Result<Value, Error> {
    let [case, attribute] = given("the filter unique", args, ["case_sensitive", "attribute"])?;
    let mut seen: Vec<Value> = Vec::new();
    let mut items = Vec::new();
    'next: for (key, item) in without_case(keyed(of, attribute.as_ref())?, case.as_ref()) {
        for one in &seen {
            step(1)?;
            if equal(one, &key)? {
                continue 'next;
            }
        }
        seen.push(key);
        items.push(item);
    }
    generated(items)
}

fn extreme(of: &Value, args: &[Value], wanted: Ordering) -> Result<Value, Error> {
    let [case, attribute] = given(
        "the filters min and max",
        args,
        ["case_sensitive", "attribute"],
    )?;
    let mut best: Option<(Value, Value)> = None;
    for (key, item) in without_case(keyed(of, attribute.as_ref())?, case.as_ref()) {
        let is_better = match &best {
            Some((other, _)) => compare(&key, other)? == Some(wanted),
            None => true,
        };
        if is_better {
            best = Some((key, item));
        }
    }
    Ok(best.map(|(_, item)| item).unwrap_or_default())
}

fn sum(of: &Value, args: &[Value]) -> Result<Value, Error> {
    let [attribute, start] = given("the filter sum", args, ["attribute", "start"])?;
    let mut total = Number::Int(0);
    if let Some(start) = start {
        total = number(&py(&start)).ok_or_else(|| error("the filter sum adds lists"))?;
    }
    for (key, _) in keyed(of, attribute.as_ref())? {
        let one = number(&py(&key)).ok_or_else(|| error("the filter sum adds numbers only"))?;
        total = match (total, one) {
            (Number::Int(a), Number::Int(b)) => Number::Int(
                a.checked_add(b)
                    .ok_or_else(|| error("a number is too large"))?,
            ),
            (a, b) => Number::Float(a.float() + b.float()),
        };
    }
    match total {
        Number::Int(total) => int(Some(total)),
        Number::Float(total) => Ok(Value::from(total)),
    }
}

fn join_filter(of: &Value, args: &[Value]) -> Result<Value, Error> {
    let [between, attribute] = given("the filter join", args, ["d", "attribute"])?;
    let between = between.map_or(Ok(String::new()), |between| str_of(&between))?;
    let mut pieces = Vec::new();
    let mut length = 0;
    for (key, _) in keyed(of, attribute.as_ref())? {
        pieces.push(str_of(&key)?);
        length += pieces[pieces.len() - 1].len() + between.len();
        require(length, 4 * MOST, "the filter join")?;
    }
    join(&between, &pieces)
}

fn map(state: &State, of: &Value, args: &[Value]) -> Result<Value, Error> {
    let items = elements(of)?;
    let made: Result<Vec<_>, Error> = match args {
        [filter, rest @ ..] if !filter.is_kwargs() => {
            let name = str_of(filter)?;
            let call = |item: Value| state.apply_filter(&name, &[&[item], rest].concat());
            items.into_iter().map(call).collect()
        }
        _ => {
            let [attribute, otherwise] = given("the filter map", args, ["attribute", "default"])?;
            let attribute =
                attribute.ok_or_else(|| error("the filter map takes a filter or an attribute"))?;
            items
                .iter()
                .map(|item| member(item, &attribute, otherwise.as_ref()))
                .collect()
        }
    };
    generated(made?)
}

fn select(
    state: &State,
    of: &Value,
    args: &[Value],
    of_attribute: bool,
    wanted: bool,
) -> Result<Value, Error> {
    let (attribute, args) = match args {
        [attribute, rest @ ..] if of_attribute => (Some(attribute), rest),
        _ => (None, args),
    };
    let mut chosen = Vec::new();
    for (key, item) in keyed(of, attribute)? {
        let holds = match args {
            [] => key.is_true(),
            [test, rest @ ..] => state.perform_test(&str_of(test)?, &[&[key], rest].concat())?,
        };
        if holds == wanted {
            chosen.push(item);
        }
    }
    generated(chosen)
}

fn replace_filter(of: &Value, args: &[Value]) -> Result<Value, Error> {
    let [old, new, count] = given("the filter replace", args, ["old", "new", "count"])?;
    let part = |value: Option<Value>| {
        value.map_or(Err(error("replace takes two texts")), |value| {
            str_of(&value)
        })
    };
    replace(
        &str_of(of)?,
        &Value::from(part(old)?),
        &Value::from(part(new)?),
        count.as_ref(),
    )
}

fn last(of: &Value) -> Result<Value, Error> {
    match py(of) {
        Py::Undefined => return Err(error("an undefined value has no last element")),
        Py::List(list) => list.length()?,
        _ => 0,
    };
    Ok(elements(of)?.last().cloned().unwrap_or_default())
}

fn reverse(of: &Value) -> Result<Value, Error> {
    if let Py::Text(whole) = py(of) {
        return text(whole.chars().rev().collect());
    }
    let mut items = elements(of)?;
    items.reverse();
    match py(of) {
        Py::List(list) if list.length().is_err() => super::value::list(items),
        _ => generated(items),
    }
}

/// What a generator of Jinja's gives.
fn generated(items: Vec<Value>) -> Result<Value, Error> {
    list_of(ListKind::Generator, items)
}

fn absolute(of: &Value) -> Result<Value, Error> {
    match number(&py(of)) {
        Some(Number::Int(number)) => int(number.checked_abs()),
        Some(Number::Float(number)) => Ok(Value::from(number.abs())),
        None => Err(error(format!("abs does not take {}", type_name(of)))),
    }
}

fn round(of: &Value, args: &[Value]) -> Result<Value, Error> {
    let [precision, method] = given("the filter round", args, ["precision", "method"])?;
    if !matches!(precision.as_ref().map(py), None | Some(Py::Int(0))) {
        return Err(error("the filter round takes no precision here"));
    }
    let method = method.map_or(Ok("common".into()), |method| str_of(&method))?;
    Ok(match (number(&py(of)), method.as_str()) {
        // Python rounds a whole number to itself.
        (Some(Number::Int(number)), "common") => int(Some(number))?,
        (Some(one), "common") => Value::from(one.float().round_ties_even()),
        (Some(one), "ceil") => Value::from(one.float().ceil()),
        (Some(one), "floor") => Value::from(one.float().floor()),
        _ => {
            return Err(error(
                "the filter round takes a number, and a method that it knows",
            ))
        }
    })
}

fn to_int(of: &Value, args: &[Value]) -> Result<Value, Error> {
    require_defined(of)?;
    let [otherwise] = given("the filter int", args, ["default"])?;
    let otherwise = || Ok(otherwise.unwrap_or_else(|| Value::from(0)));
    let whole = |number: f64| int((number.abs() < 1e38).then_some(number.trunc() as i128));
    match py(of) {
        Py::Text(digits) => {
            let digits = digits.trim_matches(is_space);
            if digits.contains('_') || !digits.is_ascii() {
                return Err(error("the filter int takes plain digits only here"));
            }
            match (digits.parse::<i128>(), plain_float(digits)) {
                (Ok(number), _) => int(Some(number)),
                (_, Some(number)) => whole(number),
                _ => otherwise(),
            }
        }
        value => match number(&value) {
            Some(Number::Int(number)) => int(Some(number)),
            Some(Number::Float(number)) if number.is_finite() => whole(number),
            _ => otherwise(),
        },
    }
}

fn to_float(of: &Value, args: &[Value]) -> Result<Value, Error> {
    require_defined(of)?;
    let [otherwise] = given("the filter float", args, ["default"])?;
    let found = match py(of) {
        Py::Text(digits) if digits.contains('_') || !digits.is_ascii() => {
            return Err(error("the filter float takes plain digits only here"));
        }
        Py::Text(digits) => plain_float(digits.trim_matches(is_space)),
        value => number(&value).map(Number::float),
    };
    Ok(found.map_or_else(
        || otherwise.unwrap_or_else(|| Value::from(0.0)),
        Value::from,
    ))
}

fn require_defined(of: &Value) -> Result<(), Error> {
    match of.is_undefined() {
        true => Err(error("an undefined value is no number")),
        false => Ok(()),
    }
}

fn plain_float(digits: &str) -> Option<f64> {
    digits
        .parse()
        .ok()
        .filter(|number: &f64| number.is_finite())
}

fn indent(of: &Value, args: &[Value]) -> Result<Value, Error> {
    let [width, first, blank] = given("the filter indent", args, ["width", "first", "blank"])?;
    let before = match width.as_ref().map(py) {
        None => " ".repeat(4),
        Some(Py::Int(width)) => {
            let width = usize::try_from(width.max(0)).unwrap_or(usize::MAX);
            require(width, MOST, "the filter indent")?;
            " ".repeat(width)
        }
        Some(Py::Text(before)) => before.into(),
        _ => return Err(error("the filter indent takes a number or a text")),
    };
    let yes = |value: Option<Value>| value.is_some_and(|value| value.is_true());
    let (first, blank) = (yes(first), yes(blank));
    let whole = str_of(of)? + "\n";
    let count = lines(&whole, false).len();
    require(
        whole.len() + count.saturating_mul(before.len()),
        4 * MOST,
        "the filter indent",
    )?;
    let mut made = String::new();
    if blank {
        made = lines(&whole, false).join(&format!("\n{before}"));
    } else {
        for (at, line) in lines(&whole, false).into_iter().enumerate() {
            if at > 0 {
                made.push('\n');
                made.push_str(if line.is_empty() { "" } else { &before });
            }
            made.push_str(line);
        }
    }
    text(if first { before + &made } else { made })
}

fn title(of: &Value) -> Result<Value, Error> {
    let whole = str_of(of)?;
    let mut made = String::new();
    let mut begins = true;
    for character in whole.chars() {
        if begins {
            made += &super::methods::titled(character)?;
        } else {
            made.extend(character.to_lowercase());
        }
        begins = is_space(character) || matches!(character, '-' | '(' | '{' | '[' | '<');
    }
    text(made)
}

fn batch(of: &Value, args: &[Value]) -> Result<Value, Error> {
    let [count, fill] = given("the filter batch", args, ["linecount", "fill_with"])?;
    let count = positive("the filter batch", count.as_ref())?;
    let mut rows = Vec::new();
    for row in elements(of)?.chunks(count) {
        let mut row = row.to_vec();
        if let Some(fill) = fill.as_ref().filter(|fill| !fill.is_none()) {
            row.resize(count, fill.clone());
        }
        rows.push(list(row)?);
    }
    generated(rows)
}

fn slice(of: &Value, args: &[Value]) -> Result<Value, Error> {
    let [count, fill] = given("the filter slice", args, ["slices", "fill_with"])?;
    let count = positive("the filter slice", count.as_ref())?;
    let items = elements(of)?;
    let (each, more) = (items.len() / count, items.len() % count);
    let mut columns = Vec::new();
    let mut at = 0;
    for column in 0..count {
        let end = at + each + usize::from(column < more);
        let mut part = items[at..end].to_vec();
        if let (Some(fill), true) = (fill.as_ref().filter(|fill| !fill.is_none()), column >= more) {
            part.push(fill.clone());
        }
        columns.push(list(part)?);
        at = end;
    }
    generated(columns)
}

fn positive(what: &str, count: Option<&Value>) -> Result<usize, Error> {
    let count = match count.map(py) {
        Some(Py::Int(count)) if count > 0 => usize::try_from(count).unwrap_or(usize::MAX),
        _ => return Err(error(format!("{what} takes a number above 0"))),
    };
    step(count)?;
    Ok(count)
}

fn wordcount(of: &Value) -> Result<Value, Error> {
    let whole = str_of(of)?;
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    Ok(Value::from(
        whole
            .split(|c| !is_word(c))
            .filter(|word| !word.is_empty())
            .count(),
    ))
}
