//! Collects findings, and knows which files of a prefix nobody runs.

use std::path::Path;

use super::report::{Check, Finding, Severity};
use super::tree::Tree;

/// The findings of one tree.
#[derive(Debug)]
pub(super) struct Findings<'t> {
    pub tree: &'t Tree,
    pub list: Vec<Finding>,
}

impl Findings<'_> {
    /// The path of a file, for the command that is its cure.
    pub(super) fn shown(&self, file: &Path) -> String {
        self.tree.absolute(file).display().to_string()
    }

    pub(super) fn error(
        &mut self,
        check: Check,
        file: &Path,
        problem: impl Into<String>,
        cure: impl Into<String>,
    ) {
        self.add(Severity::Error, check, file, problem.into(), cure.into());
    }

    pub(super) fn warning(
        &mut self,
        check: Check,
        file: &Path,
        problem: impl Into<String>,
        cure: impl Into<String>,
    ) {
        self.add(Severity::Warning, check, file, problem.into(), cure.into());
    }

    pub(super) fn note(&mut self, check: Check, file: &Path, text: impl Into<String>) {
        self.add(Severity::Note, check, file, text.into(), String::new());
    }

    fn add(
        &mut self,
        severity: Severity,
        check: Check,
        file: &Path,
        problem: String,
        cure: String,
    ) {
        let file = self.shown(file);
        self.list.push(Finding { severity, check, file, problem, cure });
    }
}

/// Work of builds, sources and documents (hier(7)): not run from where they are. Owners and modes
/// are looked at there as well, contents are not.
pub(super) fn not_run(relative: &Path) -> bool {
    const TREES: [&str; 9] = [
        "tmp",
        "var/tmp",
        "var/cache",
        "var/log",
        "usr/src",
        "usr/lib/debug",
        "usr/share/doc",
        "usr/share/man",
        "usr/share/info",
    ];
    TREES.iter().any(|tree| relative.starts_with(tree))
        || relative.extension().is_some_and(|extension| extension == "debug")
        || relative.iter().any(|name| name == "examples" || name == "example")
}
