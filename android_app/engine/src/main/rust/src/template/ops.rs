// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

//! Python's operators. Minijinja's own differ in places (`1 == true`, what `~` writes, lists that
//! are computed later), so templates use these instead (`program.rs`).

use super::budget::{error, require, step, MOST, MOST_ITEMS};
use super::value::{
    dict, equal, int, list, list_of, number, py, str_of, text, type_name, Method, Namespace,
    Number, Py,
};
use minijinja::value::Rest;
use minijinja::{Environment, Error, Value};
use std::cmp::Ordering;

type Operator = fn(&[Value]) -> Result<Value, Error>;

/// Methods of Python's dicts, and the functions for what reads one: `d.items` is the method, also if
/// the dict has a member of that name.
pub const DICT_METHODS: [(&str, &str); 11] = [
    ("clear", "\0.clear"),
    ("copy", "\0.copy"),
    ("fromkeys", "\0.fromkeys"),
    ("get", "\0.get"),
    ("items", "\0.items"),
    ("keys", "\0.keys"),
    ("pop", "\0.pop"),
    ("popitem", "\0.popitem"),
    ("setdefault", "\0.setdefault"),
    ("update", "\0.update"),
    ("values", "\0.values"),
];

/// Makes the operators functions, whose names no template can write.
pub fn add_to(environment: &mut Environment) {
    let operators: [(&'static str, Operator); 20] = [
        ("\0+", |of| add(&of[0], &of[1])),
        ("\0-", |of| arithmetic("-", &of[0], &of[1])),
        ("\0*", |of| multiply(&of[0], &of[1])),
        ("\0/", |of| arithmetic("/", &of[0], &of[1])),
        ("\0//", |of| arithmetic("//", &of[0], &of[1])),
        ("\0%", |of| arithmetic("%", &of[0], &of[1])),
        ("\0**", |of| arithmetic("**", &of[0], &of[1])),
        ("\0neg", |of| {
            arithmetic("-", &Value::from(0), &of[0]).and_then(|v| negative(&of[0], v))
        }),
        ("\0==", |of| equal(&of[0], &of[1]).map(Value::from)),
        ("\0!=", |of| {
            equal(&of[0], &of[1]).map(|same| Value::from(!same))
        }),
        ("\0<", |of| {
            ordered(&of[0], &of[1], |order| order == Ordering::Less)
        }),
        ("\0<=", |of| {
            ordered(&of[0], &of[1], |order| order != Ordering::Greater)
        }),
        ("\0>", |of| {
            ordered(&of[0], &of[1], |order| order == Ordering::Greater)
        }),
        ("\0>=", |of| {
            ordered(&of[0], &of[1], |order| order != Ordering::Less)
        }),
        ("\0in", |of| contains(&of[1], &of[0]).map(Value::from)),
        ("\0~", |of| concatenate(of)),
        ("\0item", |of| item(&of[0], &of[1])),
        ("\0slice", slice),
        ("\0list", |of| list(of.to_vec())),
        ("\0dict", build_dict),
    ];
    for (name, operator) in operators {
        environment.add_function(name, move |of: Rest<Value>| {
            step(1)?;
            operator(&of)
        });
    }
    for (name, function) in DICT_METHODS {
        environment.add_function(function, move |of: Value| attribute(&of, name));
    }
}

fn wrong(operator: &str, left: &Value, right: &Value) -> Error {
    error(format!(
        "{operator} does not take {} and {}",
        type_name(left),
        type_name(right)
    ))
}

fn add(left: &Value, right: &Value) -> Result<Value, Error> {
    match (py(left), py(right)) {
        (Py::Text(a), Py::Text(b)) => {
            require(a.len() + b.len(), 4 * MOST, "a +")?;
            text([a, b].concat())
        }
        (Py::List(a), Py::List(b)) if a.kind == b.kind && !a.is_view() => {
            require(a.items.len() + b.items.len(), MOST_ITEMS, "a +")?;
            list_of(a.kind, [&a.items[..], &b.items].concat())
        }
        _ => arithmetic("+", left, right),
    }
}

fn multiply(left: &Value, right: &Value) -> Result<Value, Error> {
    let (many, count) = match (py(left), py(right)) {
        (Py::Text(_) | Py::List(_), Py::Int(count)) => (left, count),
        (Py::Int(count), Py::Text(_) | Py::List(_)) => (right, count),
        _ => return arithmetic("*", left, right),
    };
    let count = usize::try_from(count.max(0)).unwrap_or(usize::MAX);
    match py(many) {
        Py::Text(one) => {
            require(one.len().saturating_mul(count), 4 * MOST, "a *")?;
            text(one.repeat(count))
        }
        Py::List(one) if !one.is_view() => {
            require(one.items.len().saturating_mul(count), MOST_ITEMS, "a *")?;
            list_of(
                one.kind,
                (0..count).flat_map(|_| one.items.clone()).collect(),
            )
        }
        _ => Err(wrong("*", left, right)),
    }
}

fn arithmetic(operator: &str, left: &Value, right: &Value) -> Result<Value, Error> {
    let (Some(a), Some(b)) = (number(&py(left)), number(&py(right))) else {
        return Err(wrong(operator, left, right));
    };
    let divides = matches!(operator, "/" | "//" | "%");
    if divides && b.float() == 0.0 {
        return Err(error("division by zero"));
    }
    match (operator, a, b) {
        ("/", Number::Int(a), Number::Int(b)) if exact(a) && exact(b) => {
            Ok(Value::from(a as f64 / b as f64))
        }
        ("/", Number::Float(_), _) | ("/", _, Number::Float(_)) => {
            Ok(Value::from(a.float() / b.float()))
        }
        ("+", Number::Int(a), Number::Int(b)) => int(a.checked_add(b)),
        ("-", Number::Int(a), Number::Int(b)) => int(a.checked_sub(b)),
        ("*", Number::Int(a), Number::Int(b)) => int(a.checked_mul(b)),
        ("//", Number::Int(a), Number::Int(b)) => int(floor_divide(a, b)),
        ("%", Number::Int(a), Number::Int(b)) => {
            int(floor_divide(a, b).and_then(|times| a.checked_sub(times.checked_mul(b)?)))
        }
        ("**", Number::Int(a), Number::Int(b)) if b >= 0 => {
            let power = u32::try_from(b).ok().and_then(|b| a.checked_pow(b));
            int(power).map_err(|_| error("a ** has a huge result"))
        }
        ("+", ..) => Ok(Value::from(a.float() + b.float())),
        ("-", ..) => Ok(Value::from(a.float() - b.float())),
        ("*", ..) => Ok(Value::from(a.float() * b.float())),
        _ => Err(error(format!(
            "{operator} of such numbers is not supported here"
        ))),
    }
}

/// Whether a float holds it.
fn exact(number: i128) -> bool {
    number.unsigned_abs() <= 1 << 53
}

fn floor_divide(a: i128, b: i128) -> Option<i128> {
    let times = a.checked_div(b)?;
    Some(if a % b != 0 && (a < 0) != (b < 0) {
        times - 1
    } else {
        times
    })
}

/// `-0.0` is not `0 - 0.0`.
fn negative(of: &Value, otherwise: Value) -> Result<Value, Error> {
    Ok(match py(of) {
        Py::Float(number) => Value::from(-number),
        _ => otherwise,
    })
}

/// The order of two values; None for NaN.
pub fn compare(left: &Value, right: &Value) -> Result<Option<Ordering>, Error> {
    step(1)?;
    match (py(left), py(right)) {
        (Py::Text(a), Py::Text(b)) => {
            step(a.len().min(b.len()) >> 12)?;
            Ok(Some(a.cmp(b)))
        }
        (Py::List(a), Py::List(b)) if a.kind == b.kind && !a.is_view() => {
            for (x, y) in a.items.iter().zip(&b.items) {
                if !equal(x, y)? {
                    return compare(x, y);
                }
            }
            Ok(Some(a.items.len().cmp(&b.items.len())))
        }
        (a, b) => match (number(&a), number(&b)) {
            (Some(Number::Int(a)), Some(Number::Int(b))) => Ok(Some(a.cmp(&b))),
            (Some(a), Some(b)) => Ok(a.float().partial_cmp(&b.float())),
            _ => Err(wrong("a comparison", left, right)),
        },
    }
}

fn ordered(left: &Value, right: &Value, is: fn(Ordering) -> bool) -> Result<Value, Error> {
    Ok(Value::from(compare(left, right)?.is_some_and(is)))
}

/// Whether a value holds another.
pub fn contains(container: &Value, wanted: &Value) -> Result<bool, Error> {
    match (py(container), py(wanted)) {
        (Py::Text(whole), Py::Text(part)) => {
            step(whole.len() >> 12)?;
            Ok(whole.contains(part))
        }
        (Py::Text(_), _) => Err(wrong("in", wanted, container)),
        (Py::Dict(dict), Py::Text(_) | Py::Int(_)) => Ok(dict.items.contains_key(wanted)),
        (Py::Dict(_), Py::None | Py::Undefined) => Ok(false),
        (Py::Dict(_), _) => Err(wrong("in", wanted, container)),
        (Py::List(list), _) => {
            list.length()?;
            for one in &list.items {
                if equal(one, wanted)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        (Py::Undefined, _) => Ok(false),
        _ => Err(wrong("in", wanted, container)),
    }
}

fn concatenate(pieces: &[Value]) -> Result<Value, Error> {
    let mut whole = String::new();
    for piece in pieces {
        whole.push_str(&str_of(piece)?);
        require(whole.len(), 4 * MOST, "a ~")?;
    }
    text(whole)
}

/// `value[key]`.
fn item(value: &Value, key: &Value) -> Result<Value, Error> {
    match (py(value), py(key)) {
        (Py::Undefined, _) => Err(error("an undefined value has no members")),
        (Py::Dict(dict), Py::Text(_) | Py::Int(_)) => match dict.items.get(key) {
            Some(found) => Ok(found.clone()),
            None => key
                .as_str()
                .map_or(Ok(Value::UNDEFINED), |name| attribute(value, name)),
        },
        (Py::List(list), Py::Int(at)) if list.has_places() => Ok(
            position(at, list.items.len()).map_or(Value::UNDEFINED, |at| list.items[at].clone())
        ),
        (Py::Text(whole), Py::Int(at)) => {
            step(whole.len() >> 12)?;
            let found = position(at, whole.chars().count()).and_then(|at| whole.chars().nth(at));
            Ok(found.map_or(Value::UNDEFINED, Value::from))
        }
        (Py::Other, Py::Text(name)) => value.get_attr(name),
        // Python finds methods by such names too: true, and no data.
        (Py::Text(_) | Py::List(_), Py::Text(_)) => Err(error(format!(
            "members of {} by name are not supported here",
            type_name(value)
        ))),
        _ => Ok(Value::UNDEFINED),
    }
}

fn position(at: i128, length: usize) -> Option<usize> {
    let at = if at < 0 {
        at.checked_add(length as i128)?
    } else {
        at
    };
    usize::try_from(at).ok().filter(|&at| at < length)
}

/// `value.name`, for the name of a dict's method.
fn attribute(value: &Value, name: &str) -> Result<Value, Error> {
    match py(value) {
        Py::Dict(_) if DICT_METHODS.iter().any(|(one, _)| *one == name) => {
            Ok(Value::from_object(Method))
        }
        Py::Dict(dict) => Ok(dict
            .items
            .get(&Value::from(name))
            .cloned()
            .unwrap_or_default()),
        _ => value.get_attr(name),
    }
}

/// `value[start:stop:step]`.
fn slice(of: &[Value]) -> Result<Value, Error> {
    let bound = |value: &Value| match py(value) {
        Py::None | Py::Undefined => Ok(None),
        Py::Int(number) => Ok(Some(number.clamp(-(1 << 40), 1 << 40) as i64)),
        _ => Err(error(format!("a slice does not take {}", type_name(value)))),
    };
    let (start, stop, stride) = (bound(&of[1])?, bound(&of[2])?, bound(&of[3])?.unwrap_or(1));
    let chars: Vec<char>;
    let length = match py(&of[0]) {
        Py::Text(whole) => {
            step(whole.len() >> 12)?;
            chars = whole.chars().collect();
            chars.len()
        }
        Py::List(list) if list.has_places() => {
            chars = Vec::new();
            list.items.len()
        }
        _ => return Err(error(format!("{} has no parts", type_name(&of[0])))),
    } as i64;
    if stride == 0 {
        return Err(error("a slice has the step 0"));
    }
    let (low, high) = if stride > 0 {
        (0, length)
    } else {
        (-1, length - 1)
    };
    let place = |at: Option<i64>, otherwise| {
        at.map_or(otherwise, |at| {
            if at < 0 { at + length } else { at }.clamp(low, high)
        })
    };
    let (first, end) = if stride > 0 {
        (0, length)
    } else {
        (length - 1, -1)
    };
    let (mut at, end) = (place(start, first), place(stop, end));
    let mut places = Vec::new();
    while if stride > 0 { at < end } else { at > end } {
        places.push(at as usize);
        at += stride;
    }
    match py(&of[0]) {
        Py::List(list) => list_of(
            list.kind,
            places.iter().map(|&at| list.items[at].clone()).collect(),
        ),
        _ => text(places.iter().map(|&at| chars[at]).collect()),
    }
}

fn build_dict(of: &[Value]) -> Result<Value, Error> {
    let pairs = of
        .chunks_exact(2)
        .map(|pair| (pair[0].clone(), pair[1].clone()));
    dict(pairs.collect())
}

/// Sets a member of a namespace.
pub fn set_member(namespace: &Value, name: &str, value: &Value) -> Result<Value, Error> {
    let Some(namespace) = namespace.downcast_object_ref::<Namespace>() else {
        return Err(error("only members of namespaces can be set"));
    };
    super::value::require_data(value)?;
    if let Ok(mut members) = namespace.0.lock() {
        members.insert(name.into(), value.clone());
    }
    Ok(Value::UNDEFINED)
}

/// All elements in order, of one kind.
pub fn sorted(mut items: Vec<(Value, Value)>, reverse: bool) -> Result<Vec<Value>, Error> {
    let mut failure = None;
    items.sort_by(|(a, _), (b, _)| {
        let order = compare(a, b).unwrap_or_else(|told| {
            failure.get_or_insert(told);
            None
        });
        let order = order.unwrap_or(Ordering::Equal);
        if reverse {
            order.reverse()
        } else {
            order
        }
    });
    failure.map_or(Ok(()), Err)?;
    Ok(items.into_iter().map(|(_, item)| item).collect())
}
