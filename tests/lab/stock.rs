//! The modules of the laboratory's kernel, and its packages.
#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]
#![allow(clippy::missing_panics_doc, reason = "each of these is a part of a test")]

use std::path::PathBuf;
use std::process::Command;

use super::kernel;
use super::turns::Once;

/// The kernel release.
pub fn release() -> String {
    kernel::stock().unwrap().release
}

/// All module files, sorted.
pub fn modules() -> Vec<PathBuf> {
    static ALL: Once<Vec<PathBuf>> = Once::new();
    let all = ALL.get(|| kernel::stock().unwrap().module_files().unwrap());
    assert!(all.len() > 1000, "only {} modules", all.len());
    all.clone()
}

/// The file of the module with this file name (without `.ko`).
pub fn module(name: &str) -> PathBuf {
    let file = format!("{name}.ko");
    let found = modules().into_iter().find(|p| p.file_name().unwrap() == file.as_str());
    found.unwrap_or_else(|| panic!("the kernel has no {file}"))
}

/// Runs a tool and returns its stdout. If the tool is missing or fails, the test fails.
pub fn run(command: &mut Command) -> String {
    super::tool::run(command).unwrap_or_else(|e| panic!("{e:#}"))
}
