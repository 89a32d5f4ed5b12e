//! What is wrong with the configuration, and where.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// How much of a file is ignored because of a [`Note`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// One key or word was ignored; the rest of the file holds.
    Warning,
    /// The whole file was set aside.
    Error,
}

/// One thing that is wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// How much of the file is ignored.
    pub severity: Severity,
    /// The file, as the machine names it (without a test's root).
    pub file: PathBuf,
    /// Line, from 1.
    pub line: Option<usize>,
    /// Column in characters, from 1.
    pub column: Option<usize>,
    /// What was found and what was expected.
    pub message: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        for number in [self.line, self.column].into_iter().flatten() {
            write!(f, "{number}:")?;
        }
        write!(f, " {}", self.message)
    }
}

/// A [`Note`] whose file is not yet known.
#[derive(Debug)]
pub(super) struct Problem {
    position: Option<(usize, usize)>,
    message: String,
}

impl Problem {
    /// Something about a file as a whole.
    pub(super) fn whole(message: impl Into<String>) -> Problem {
        Problem { position: None, message: message.into() }
    }

    /// Something at byte `offset` of `text`.
    pub(super) fn at(text: &[u8], offset: usize, message: impl Into<String>) -> Problem {
        let before = text.get(..offset).unwrap_or(text);
        let line = before.iter().filter(|&&b| b == b'\n').count() + 1;
        let start = before.iter().rposition(|&b| b == b'\n').map_or(0, |newline| newline + 1);
        let column = String::from_utf8_lossy(&before[start..]).chars().count() + 1;
        Problem { position: Some((line, column)), message: message.into() }
    }

    pub(super) fn warning(self, file: &Path) -> Note {
        self.note(Severity::Warning, file, "ignored")
    }

    pub(super) fn error(self, file: &Path) -> Note {
        self.note(Severity::Error, file, "the whole file is set aside")
    }

    fn note(self, severity: Severity, file: &Path, cost: &str) -> Note {
        Note {
            severity,
            file: file.to_owned(),
            line: self.position.map(|p| p.0),
            column: self.position.map(|p| p.1),
            message: format!("{}; {cost}", self.message),
        }
    }
}

/// A bad value: where it is in the text, and what was expected.
#[derive(Debug)]
pub(super) struct Bad {
    pub(super) span: Range<usize>,
    pub(super) message: String,
}
