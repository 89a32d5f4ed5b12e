//! What an audit found, for people and as JSON.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::text::printable;
use serde::Serialize;

/// Version of the JSON form of a [`Report`].
const VERSION: u32 = 1;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// The prefix is not sound: builds fail, or use files of the host.
    Error,
    /// Builds may go wrong, or do on some hosts.
    Warning,
    /// Nothing to mend; what a build will do about it.
    Note,
}

/// What was looked at when something was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// A file or directory could not be read, or is not what its name says.
    Unreadable,
    /// Something a build needs is not there.
    Missing,
    /// An ELF program's interpreter (PT_INTERP).
    Interpreter,
    /// DT_RPATH or DT_RUNPATH.
    RunPath,
    /// DT_NEEDED.
    Library,
    /// The directories built into the ELF interpreter.
    SearchPath,
    /// The `#!` line of a script.
    Script,
    /// A symbolic link.
    Link,
    /// Whose a file is.
    Owner,
    /// Permissions, setuid and setgid bits, device nodes.
    Mode,
    /// Names of the owner in /etc/passwd and /etc/group.
    Names,
    /// The compiler against the one that the kernel was built by.
    Compiler,
    /// A program of the prefix that was run.
    Probe,
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What was looked at.
    pub check: Check,
    /// The file, as a path below EPREFIX wherever the tree is now. What is not UTF-8 is replaced.
    pub file: String,
    /// What is wrong.
    pub problem: String,
    /// What to do; empty in a note.
    pub cure: String,
}

/// The result of an audit.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// Version of this form: 1.
    pub version: u32,
    /// The directory that was walked.
    pub directory: PathBuf,
    /// The path its files were made for.
    pub eprefix: PathBuf,
    /// Files, directories and links below it.
    pub files: usize,
    /// ELF files among them, of whatever kind.
    pub elf_files: usize,
    /// Executable files beginning with `#!`.
    pub scripts: usize,
    /// The first line of `gcc --version`; null when the compiler does not run.
    pub compiler: Option<String>,
    /// No error was found.
    pub sound: bool,
    /// Errors first, then by check and file.
    pub findings: Vec<Finding>,
}

impl Report {
    /// A report of these findings, sorted, each once.
    pub(super) fn new(directory: &Path, eprefix: &Path, mut findings: Vec<Finding>) -> Report {
        findings.sort();
        findings.dedup();
        Report {
            version: VERSION,
            directory: directory.to_owned(),
            eprefix: eprefix.to_owned(),
            files: 0,
            elf_files: 0,
            scripts: 0,
            compiler: None,
            sound: findings.iter().all(|f| f.severity != Severity::Error),
            findings,
        }
    }

    /// Whether no error was found; warnings and notes do not count.
    pub fn is_sound(&self) -> bool {
        self.sound
    }

    /// The findings of one severity.
    pub fn of(&self, severity: Severity) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(move |f| f.severity == severity)
    }
}

/// `FILE: PROBLEM; CURE`, fit for a terminal: names in the prefix are its owner's choice.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        };
        write!(f, "{severity}: {}: {}", printable(&self.file), printable(&self.problem))?;
        if self.cure.is_empty() { Ok(()) } else { write!(f, "; {}", printable(&self.cure)) }
    }
}

/// One line for each finding, and one of figures.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        let [errors, warnings] =
            [Severity::Error, Severity::Warning].map(|severity| self.of(severity).count());
        write!(
            f,
            "{}: {} files, {} ELF, {} scripts; {errors} errors, {warnings} warnings: {}",
            printable(&self.directory.to_string_lossy()),
            self.files,
            self.elf_files,
            self.scripts,
            if self.sound { "sound" } else { "NOT SOUND" }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_sound_without_errors_and_never_prints_control_characters() {
        let finding = |severity, file: &str| Finding {
            severity,
            check: Check::Mode,
            file: file.to_owned(),
            problem: "is \x1b[31mred".to_owned(),
            cure: "chmod".to_owned(),
        };
        let new = |findings| Report::new(Path::new("/d"), Path::new("/e"), findings);
        let report = new(vec![finding(Severity::Note, "a"), finding(Severity::Warning, "b\n")]);
        assert!(report.is_sound());
        let text = report.to_string();
        assert!(text.starts_with("warning: b?: is ?[31mred; chmod\nnote: a: "), "{text}");
        assert!(text.ends_with("0 errors, 1 warnings: sound"), "{text}");
        let twice = vec![
            finding(Severity::Note, "a"),
            finding(Severity::Error, "z"),
            finding(Severity::Error, "z"),
        ];
        let report = new(twice);
        assert!(!report.is_sound() && report.findings.len() == 2, "{report}");
        assert_eq!(report.findings[0].severity, Severity::Error);
    }
}
