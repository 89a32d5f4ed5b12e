//! What the tests of the boot path share.
#![allow(dead_code, reason = "each test binary uses its part")]

pub mod openzfs;

use std::fs;
use std::path::{Path, PathBuf};

/// The package's own directory.
pub fn source() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Puts the static units into `directory` (as `/usr/lib/systemd/system`) of `root`, and the
/// dormant drop-ins to their place.
pub fn install_units(root: &Path, directory: &str) {
    let into = root.join(directory.trim_start_matches('/'));
    for name in unit_names() {
        copy(&source().join("units").join(&name), &into.join(&name));
    }
    for drop_in in [
        "zfs-load.service.d/10-var.conf",
        "zfs-mount.service.d/50-zfs-prefix.conf",
        "zfs-share.service.d/50-zfs-prefix.conf",
        "zfs-volume-wait.service.d/50-zfs-prefix.conf",
        "zfs-load-key@.service.d/50-zfs-prefix.conf",
    ] {
        copy(&source().join("units").join(drop_in), &into.join(drop_in));
    }
    let dormant = source().join("units/dropins");
    copy_tree(&dormant, &root.join("usr/lib/zfs-prefix/dropins"));
}

/// The unit files of `units/`.
pub fn unit_names() -> Vec<String> {
    let unit = |name: &String| {
        [".service", ".timer", ".slice"].iter().any(|suffix| name.ends_with(suffix))
    };
    let names: Vec<_> = entries(&source().join("units")).into_iter().filter(unit).collect();
    assert!(names.len() >= 7, "only {names:?} in units/");
    names
}

/// Copies one file, making directories on the way.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    fs::copy(from, to).unwrap_or_else(|e| panic!("{} -> {}: {e}", from.display(), to.display()));
}

/// Copies a tree over another one, symlinks as such; a missing `from` is an empty one.
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

/// An empty directory below target/tmp.
pub fn scratch(prefix: &str) -> tempfile::TempDir {
    tempfile::Builder::new().prefix(prefix).tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Downloads and other things that are slow to get, kept between runs: target/lab.
pub fn lab() -> PathBuf {
    let lab = source().join("target/lab");
    fs::create_dir_all(&lab).unwrap();
    lab
}
