// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

//! What one rendering of a chat template may take: steps, bytes and time.
//!
//! As in `moe_mobile/text/budget.py`, but minijinja's own instructions are counted by its fuel.

use minijinja::{Error, ErrorKind};
use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

/// Characters of a text: more than any context takes.
pub const MOST: usize = 1 << 22;
/// Elements of a list.
pub const MOST_ITEMS: usize = 1 << 20;
/// Lists and the like inside of each other.
pub const MOST_DEPTH: usize = 120;

const MOST_STEPS: usize = 100_000;
const MOST_BYTES: usize = 64 << 20;
const MOST_TIME: Duration = Duration::from_secs(5);

thread_local! {
    static STEPS: Cell<usize> = const { Cell::new(0) };
    static BYTES: Cell<usize> = const { Cell::new(0) };
    static END: Cell<Option<Instant>> = const { Cell::new(None) };
    static RAISED: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// What is counted from now on is a new rendering's.
pub fn begin() {
    STEPS.set(MOST_STEPS);
    BYTES.set(MOST_BYTES);
    END.set(Some(Instant::now() + MOST_TIME));
    RAISED.take();
}

/// What the template said with `raise_exception`.
pub fn raised() -> Option<String> {
    RAISED.take()
}

/// The template's own refusal.
pub fn raise(message: String) -> Error {
    RAISED.replace(Some(message.clone()));
    error(message)
}

/// Any failure of a template.
pub fn error(cause: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, cause.into())
}

/// What is beyond a bound.
pub fn require(length: usize, most: usize, what: &str) -> Result<(), Error> {
    if length > most {
        return Err(error(format!("{what} has a huge result")));
    }
    Ok(())
}

/// Counts steps.
pub fn step(count: usize) -> Result<(), Error> {
    let Some(left) = STEPS.get().checked_sub(count) else {
        return Err(error(format!("it takes more than {MOST_STEPS} steps")));
    };
    STEPS.set(left);
    if END.get().is_some_and(|end| Instant::now() > end) {
        return Err(error(format!(
            "it runs for more than {} s",
            MOST_TIME.as_secs()
        )));
    }
    Ok(())
}

/// Counts bytes that are made.
pub fn spend(count: usize) -> Result<(), Error> {
    let Some(left) = BYTES.get().checked_sub(count) else {
        return Err(error(format!(
            "it makes more than {} MiB of texts and lists",
            MOST_BYTES >> 20
        )));
    };
    BYTES.set(left);
    Ok(())
}
