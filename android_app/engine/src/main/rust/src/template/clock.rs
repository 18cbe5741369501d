// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

//! Local time for templates that write a date.

use super::budget::{error, require};
use minijinja::{Error, Value};
use std::ffi::CString;

const MOST_FORM: usize = 1000;
// What Python and C agree on for a time without a zone.
const KNOWN: &str = "aAbBcCdDeFgGhHIjklmMnpPrRStTuUVwWxXyY%";

/// The time now, in a format of `strftime`.
pub fn now(form: &str) -> Result<Value, Error> {
    require(form.len(), MOST_FORM, "strftime_now")?;
    let mut letters = form.chars();
    while let Some(letter) = letters.next() {
        let directive = if letter == '%' {
            letters.next().unwrap_or('\0')
        } else {
            '%'
        };
        if !KNOWN.contains(directive) {
            return Err(error(format!(
                "strftime_now does not take %{} here",
                directive.escape_debug()
            )));
        }
    }
    // An end mark, so that an empty result differs from a failure.
    let form = CString::new(format!("{form}.")).map_err(|_| error("strftime_now takes no zero"))?;
    let mut made = vec![0u8; 64 * MOST_FORM];
    // SAFETY: all pointers are to memory of this function, of the size that is given.
    let length = unsafe {
        let seconds = libc::time(std::ptr::null_mut());
        let mut parts: libc::tm = std::mem::zeroed();
        if libc::localtime_r(&seconds, &mut parts).is_null() {
            return Err(error("the time is not known"));
        }
        libc::strftime(made.as_mut_ptr().cast(), made.len(), form.as_ptr(), &parts)
    };
    made.truncate(length.saturating_sub(1));
    String::from_utf8(made)
        .map(Value::from)
        .map_err(|_| error("the time is no text"))
}
