// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

//! What goes wrong, as the engine's errors say it.

/// Whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(u32)]
pub enum Kind {
    /// The caller's: a text, or messages.
    Usage = 1,
    /// A bundle's file's.
    Invalid = 2,
    /// Ours.
    Defect = 3,
}

/// A failure: at most one of `file`, a name in the bundle, and `setting` is filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    pub kind: Kind,
    pub file: String,
    pub setting: String,
    pub cause: String,
    pub remedy: String,
}

const AGAIN: &str = "Export again from a complete checkpoint.";

/// A file of the bundle that cannot be used.
pub fn invalid(file: &str, cause: impl Into<String>) -> Failure {
    invalid_with(file, cause, AGAIN)
}

/// The same, where exporting again may not help.
pub fn invalid_with(file: &str, cause: impl Into<String>, remedy: &str) -> Failure {
    let file = file.into();
    Failure {
        kind: Kind::Invalid,
        file,
        setting: String::new(),
        cause: cause.into(),
        remedy: remedy.into(),
    }
}

/// A member of a request that cannot be used.
pub fn usage(setting: &str, cause: impl Into<String>, remedy: &str) -> Failure {
    let setting = setting.into();
    Failure {
        kind: Kind::Usage,
        file: String::new(),
        setting,
        cause: cause.into(),
        remedy: remedy.into(),
    }
}
