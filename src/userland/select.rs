//! Which of the files that OpenZFS installs are published: what a machine runs or reads.

use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use anyhow::{Result, ensure};
use walkdir::WalkDir;

/// OpenZFS 2.3 installs 500 files.
const MAX_FILES: usize = 10_000;
const MAX_DEPTH: usize = 12;
/// The directories to publish from. include and src are not among them: they are for compilers.
const TOP: [&str; 5] = ["bin", "sbin", "lib", "libexec", "share"];
/// Not published: files for compilers, for OpenZFS's own test suite, and for programs that make an
/// initrd, which look for them in their own directories.
const LEFT_OUT: [&str; 14] = [
    "bin/raidz_test",
    "sbin/ztest",
    "lib/pkgconfig",
    "lib/dracut",
    "lib/modules-load.d",
    "share/doc",
    "share/initramfs-tools",
    "share/etc/sudoers.d",
    "share/zfs/common.sh",
    "share/zfs/runfiles",
    "share/zfs/test-runner",
    "share/zfs/zfs-tests",
    "share/man/man1/raidz_test.1",
    "share/man/man1/ztest.1",
];
/// Scripts in this directory are for people who work on OpenZFS itself.
const SCRIPTS_OF: &str = "share/zfs";

/// All published files and links below `dir`, relative to it, sorted.
///
/// # Errors
/// A directory cannot be read. A name is not one that OpenZFS would give. There are too many files, or
/// too many levels of directories.
pub(crate) fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut entries = WalkDir::new(dir).min_depth(1).into_iter();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let path = entry.path().strip_prefix(dir)?;
        let plain = entry.file_name().as_bytes().iter().all(u8::is_ascii_graphic);
        ensure!(plain, "{}: not a name that OpenZFS would give", path.display());
        let is_dir = entry.file_type().is_dir();
        if is_dir && !wanted(path) {
            entries.skip_current_dir();
        } else if is_dir {
            let depth = entry.depth();
            ensure!(depth < MAX_DEPTH, "{}: directories nested too deeply", path.display());
        } else if wanted(path) {
            files.push(path.to_owned());
            ensure!(files.len() < MAX_FILES, "{}: more than {MAX_FILES} files", dir.display());
        }
    }
    files.sort();
    Ok(files)
}

/// Whether a file or directory at `path`, relative to the userland, is published. If a directory is
/// not, nothing in it is.
pub(crate) fn wanted(path: &Path) -> bool {
    let Some(Component::Normal(top)) = path.components().next() else { return false };
    let ends = |end: &str| path.extension().is_some_and(|extension| extension == end);
    let script = ends("sh") && path.parent() == Some(Path::new(SCRIPTS_OF));
    let out = script || LEFT_OUT.iter().any(|out| path == Path::new(out));
    let for_compilers = ends("la") || ends("a");
    TOP.iter().any(|dir| top == *dir) && !out && !for_compilers
}

/// Whether an absolute link at `path` to `target` may be left out. Such links are enabled zedlets
/// in the defaults for /etc, and masked units.
pub(crate) fn may_be_left_out(path: &Path, target: &Path) -> bool {
    path.starts_with("share/etc") || target == Path::new("/dev/null")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_run_or_read_is_published_and_what_is_for_compilers_and_tests_is_not() {
        for (path, expected) in [
            ("sbin/zpool", true),
            ("lib/libzfs.so.6", true),
            ("lib/udev/rules.d/60-zvol.rules", true),
            ("libexec/zfs/zed.d/all-syslog.sh", true),
            ("share/zfs/compatibility.d/grub2", true),
            ("share/man/man8/zpool.8", true),
            ("share/etc/zfs/zed.d/zed.rc", true),
            ("share/zfs/zfs.sh", false),
            ("share/zfs/zfs-tests", false),
            ("include", false),
            ("lib/libzfs.la", false),
            ("sbin/ztest", false),
            ("../x", false),
            ("/etc", false),
        ] {
            assert_eq!(wanted(Path::new(path)), expected, "{path}");
        }
        let out = |path: &str, to: &str| may_be_left_out(Path::new(path), Path::new(to));
        assert!(out("share/etc/zfs/zed.d/all-syslog.sh", "/run/x"));
        assert!(out("lib/systemd/system/zfs-import.service", "/dev/null"));
        assert!(!out("sbin/zpool", "/home/core/zpool"));
    }

    #[test]
    fn only_published_files_are_listed_and_a_tree_too_deep_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["sbin/zpool", "include/zfs.h", "share/zfs/zfs-tests/x", "lib/libzfs.so.6"] {
            std::fs::create_dir_all(dir.path().join(path).parent().unwrap()).unwrap();
            std::fs::write(dir.path().join(path), "").unwrap();
        }
        let want = ["lib/libzfs.so.6", "sbin/zpool"].map(PathBuf::from);
        assert_eq!(files(dir.path()).unwrap(), want);
        let levels = |levels: usize| dir.path().join("lib").join(["d"].repeat(levels).join("/"));
        std::fs::create_dir_all(levels(MAX_DEPTH - 2)).unwrap();
        assert_eq!(files(dir.path()).unwrap(), want);
        std::fs::create_dir_all(levels(MAX_DEPTH - 1)).unwrap();
        assert!(files(dir.path()).unwrap_err().to_string().contains("nested too deeply"));
    }
}
