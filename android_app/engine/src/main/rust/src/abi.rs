// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

//! The C ABI; `moe_text.h` explains it.

use crate::detokenizer::Detokenizer;
use crate::failure::{Failure, Kind};
use crate::tokenizer::{panic_text, TextTokenizer};
use crate::Text;
use std::collections::BTreeMap;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Once;

/// Bytes of the caller.
#[repr(C)]
pub struct Bytes {
    data: *const u8,
    size: usize,
}

/// A file of the bundle.
#[repr(C)]
pub struct File {
    name: Bytes,
    content: Bytes,
}

/// What a call gave: bytes of this library, until they are freed.
#[repr(C)]
pub struct Answer {
    kind: u32,
    data: *mut u8,
    size: usize,
}

/// What streams text.
pub struct Stream(Detokenizer<TextTokenizer>);

impl Bytes {
    /// SAFETY: `data` has `size` bytes, which do not change meanwhile.
    unsafe fn get<'a>(&self) -> &'a [u8] {
        if self.size == 0 {
            return &[];
        }
        std::slice::from_raw_parts(self.data, self.size)
    }

    /// SAFETY: as for `get`.
    unsafe fn text<'a>(&self) -> Result<&'a str, Failure> {
        std::str::from_utf8(self.get()).map_err(|_| defect("a text is not UTF-8".into()))
    }
}

/// SAFETY: `ids` has `count` numbers, which do not change meanwhile.
unsafe fn numbers<'a>(ids: *const u32, count: usize) -> &'a [u32] {
    if count == 0 {
        return &[];
    }
    std::slice::from_raw_parts(ids, count)
}

fn defect(cause: String) -> Failure {
    Failure {
        kind: Kind::Defect,
        file: String::new(),
        setting: String::new(),
        cause,
        remedy: "This is a defect of moe-mobile; please report it.".into(),
    }
}

impl Answer {
    fn new(kind: u32, bytes: Vec<u8>) -> Answer {
        let bytes = bytes.into_boxed_slice();
        let size = bytes.len();
        Answer {
            kind,
            data: Box::into_raw(bytes).cast(),
            size,
        }
    }

    /// What `work` gives. A failure is four texts, each with a zero after it.
    fn of(work: impl FnOnce() -> Result<Vec<u8>, Failure>) -> Answer {
        // Nothing may be printed: the runner's streams are its protocol.
        static QUIET: Once = Once::new();
        QUIET.call_once(|| std::panic::set_hook(Box::new(|_| {})));
        let done = catch_unwind(AssertUnwindSafe(work));
        match done.unwrap_or_else(|panic| Err(defect(panic_text(&*panic)))) {
            Ok(bytes) => Answer::new(0, bytes),
            Err(told) => {
                let texts = [told.file, told.setting, told.cause, told.remedy];
                let texts = texts.map(|text| text.replace('\0', "\u{fffd}") + "\0");
                Answer::new(told.kind as u32, texts.concat().into_bytes())
            }
        }
    }
}

fn bytes_of(ids: &[u32]) -> Vec<u8> {
    ids.iter().flat_map(|id| id.to_ne_bytes()).collect()
}

/// # Safety
/// `files` has `count` files, and `made` is a place for a pointer.
#[no_mangle]
pub unsafe extern "C" fn moe_text_open(
    files: *const File,
    count: usize,
    rows: u32,
    context: u32,
    made: *mut *mut Text,
) -> Answer {
    Answer::of(|| {
        let mut found = BTreeMap::new();
        for at in 0..count {
            let file = &*files.add(at);
            found.insert(file.name.text()?.to_owned(), file.content.get().to_vec());
        }
        *made = Box::into_raw(Box::new(Text::open(&found, rows, context)?));
        Ok(Vec::new())
    })
}

/// # Safety
/// `text` is of `moe_text_open`, and not used any more; or null.
#[no_mangle]
pub unsafe extern "C" fn moe_text_close(text: *mut Text) {
    if !text.is_null() {
        drop(Box::from_raw(text));
    }
}

/// # Safety
/// `text` is of `moe_text_open`.
#[no_mangle]
pub unsafe extern "C" fn moe_text_encode(text: *const Text, request: Bytes) -> Answer {
    Answer::of(|| Ok(bytes_of(&(*text).encode(request.text()?)?)))
}

/// # Safety
/// `text` is of `moe_text_open`.
#[no_mangle]
pub unsafe extern "C" fn moe_text_render(text: *const Text, request: Bytes) -> Answer {
    Answer::of(|| Ok((*text).render(request.text()?)?.into_bytes()))
}

/// # Safety
/// `text` is of `moe_text_open`, and `ids` has `count` numbers.
#[no_mangle]
pub unsafe extern "C" fn moe_text_decode(
    text: *const Text,
    ids: *const u32,
    count: usize,
) -> Answer {
    Answer::of(|| Ok((*text).decode(numbers(ids, count))?.into_bytes()))
}

/// # Safety
/// `text` is of `moe_text_open`, `ids` has `count` numbers, and `made` is a place for a pointer.
#[no_mangle]
pub unsafe extern "C" fn moe_text_stream(
    text: *const Text,
    ids: *const u32,
    count: usize,
    made: *mut *mut Stream,
) -> Answer {
    Answer::of(|| {
        let stream = Stream((*text).stream(numbers(ids, count))?);
        *made = Box::into_raw(Box::new(stream));
        Ok(Vec::new())
    })
}

/// # Safety
/// `stream` is of `moe_text_stream`.
#[no_mangle]
pub unsafe extern "C" fn moe_text_step(stream: *mut Stream, token: u32) -> Answer {
    Answer::of(|| Ok((*stream).0.step(token)?.into_bytes()))
}

/// # Safety
/// `stream` is of `moe_text_stream`.
#[no_mangle]
pub unsafe extern "C" fn moe_text_finish(stream: *mut Stream) -> Answer {
    Answer::of(|| Ok((*stream).0.finish()?.into_bytes()))
}

/// # Safety
/// `stream` is of `moe_text_stream`, and not used any more; or null.
#[no_mangle]
pub unsafe extern "C" fn moe_text_stream_close(stream: *mut Stream) {
    if !stream.is_null() {
        drop(Box::from_raw(stream));
    }
}

/// # Safety
/// `answer` is of this library, and freed once.
#[no_mangle]
pub unsafe extern "C" fn moe_text_free(answer: Answer) {
    drop(Box::from_raw(std::ptr::slice_from_raw_parts_mut(
        answer.data,
        answer.size,
    )));
}
