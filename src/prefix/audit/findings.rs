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

/// Ebuild repositories (Gentoo once had its own in the second one) and Portage's records of what is
/// installed. They have very many files, among them scripts that Portage copies elsewhere or reads
/// with a shell of its own.
pub(super) fn portages(relative: &Path) -> bool {
    const TREES: [&str; 3] = ["var/db/repos", "usr/portage", "var/db/pkg"];
    TREES.iter().any(|tree| relative.starts_with(tree))
}

/// Work of builds, sources, documents (hier(7)), tests and what is Portage's own. Nobody runs them
/// from where they are. Their owners and modes are checked too; their contents are not.
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
    // Not the file itself: test(1) is a program.
    let tests = |dir: &Path| dir.iter().any(|name| name == "test" || name == "tests");
    portages(relative)
        || TREES.iter().any(|tree| relative.starts_with(tree))
        || relative.parent().is_some_and(tests)
        || relative.extension().is_some_and(|extension| extension == "debug")
        || relative.iter().any(|name| name == "examples" || name == "example")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_runs_is_told_by_its_directory_and_not_by_its_name() {
        for (path, want) in [
            ("var/db/repos/gentoo/net-misc/ntp/files/ntpd.rc", true),
            ("usr/portage/profiles/a", true),
            ("var/db/pkg/app-shells/bash-5.2/bash-5.2.ebuild", true),
            ("var/db/reposx/a", false),
            ("usr/lib/python3.11/test/regrtest.py", true),
            ("usr/share/tool/tests/deep/run.sh", true),
            ("usr/bin/test", false),
            ("usr/bin/tests", false),
            ("usr/bin/tester/a", false),
            ("usr/share/tool/examples/a", true),
            ("usr/lib/debug/usr/bin/a", true),
            ("usr/bin/a", false),
        ] {
            assert_eq!(not_run(Path::new(path)), want, "{path}");
        }
    }
}
