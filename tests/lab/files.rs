//! Helpers for the files of a test's machine in a directory.
#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]
#![allow(clippy::missing_panics_doc, reason = "each of these is a part of a test")]

use std::fs;
use std::path::Path;

pub use super::tmp::scratch;

/// Copies one file, and makes the directories above it.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    fs::copy(from, to).unwrap_or_else(|e| panic!("{} -> {}: {e}", from.display(), to.display()));
}

/// Copies a tree over another one. Symlinks stay symlinks. A missing `from` is an empty tree.
pub fn copy_tree(from: &Path, to: &Path) {
    if !from.exists() {
        return;
    }
    fs::create_dir_all(to).unwrap();
    for name in entries(from) {
        let (from, to) = (from.join(&name), to.join(&name));
        let kind = fs::symlink_metadata(&from).unwrap().file_type();
        if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&from).unwrap(), &to).unwrap();
        } else if kind.is_dir() {
            copy_tree(&from, &to);
        } else {
            fs::copy(&from, &to).unwrap();
        }
    }
}

/// The sorted names in a directory.
pub fn entries(directory: &Path) -> Vec<String> {
    let listing = fs::read_dir(directory).unwrap_or_else(|e| panic!("{directory:?}: {e}"));
    let mut names: Vec<_> =
        listing.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
