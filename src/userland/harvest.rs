//! Copies the programs that are published from the owner's files into the staging tree, which is
//! root's. Links become files. Of a library's names, only the one that programs ask for remains.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{DIR, select};
use crate::elf::{Elf, Kind};
use crate::exit::{Exit, WithExit};
use crate::fail;
use crate::prefix::owned::{open_linked, open_plain, read_all};
use crate::store::Staging;

/// The userland that the prefix's owner left.
#[derive(Debug)]
pub(crate) struct Origin<'a> {
    /// The work directory. Everything above it belongs to root.
    pub(crate) top: &'a Path,
    /// The userland, somewhere below `top`.
    pub(crate) dir: PathBuf,
    /// Directories of the owner: EPREFIX by every name it has, and the work directory. Nothing that
    /// is published may contain their paths.
    pub(crate) owners: Vec<PathBuf>,
}

impl Origin<'_> {
    /// Copies the userland to `userland/` of `staging`. Returns how many files that are.
    ///
    /// # Errors
    /// [`Exit::Refused`]: something of it cannot be published; the file is named.
    pub(crate) fn copy(&self, staging: &Staging) -> Result<usize> {
        let mut count = 0;
        for file in &select::files(&self.dir).exit(Exit::Refused)? {
            count += usize::from(copy_one(self, file, staging).exit(Exit::Refused)?);
        }
        Ok(count)
    }
}

/// Copies one file. Returns false if it is left out.
fn copy_one(origin: &Origin<'_>, path: &Path, staging: &Staging) -> Result<bool> {
    let from = origin.dir.join(path);
    let Some(file) = open(origin, path, &from)? else { return Ok(false) };
    let mode = file.metadata().with_context(|| format!("{}", from.display()))?.mode();
    if mode & 0o7000 != 0 {
        fail!(Exit::Refused, "{}: mode {:04o} is never published", from.display(), mode & 0o7777);
    }
    let mut bytes = read_all(&file, &from)?;
    // This moves the file offset, so it comes after the reading.
    let elf = Elf::open(&file).with_context(|| format!("{}", from.display()))?;
    let executable = match &elf {
        Some(elf) if elf.kind == Kind::Library => {
            // No program asks for it by its other names (libzfs.so, libzfs.so.6.0.0).
            if elf.soname.as_deref() != path.file_name().map(Path::new) {
                return Ok(false);
            }
            is_interpreter(elf)
        }
        Some(_) => true,
        None => bytes.starts_with(b"#!") && mode & 0o111 != 0,
    };
    if elf.is_some() {
        origin.owners.iter().for_each(|dir| lead_nowhere(&mut bytes, dir));
    }
    let to = Path::new(DIR).join(path);
    let mut file = if executable { staging.create_program(&to)? } else { staging.create(&to)? };
    file.write_all(&bytes).with_context(|| format!("{}", staging.dir().join(&to).display()))?;
    Ok(true)
}

/// None for a link that is left out.
fn open(origin: &Origin<'_>, path: &Path, from: &Path) -> Result<Option<File>> {
    match fs::read_link(from) {
        Err(_) => open_plain(origin.top, from).map(Some),
        Ok(target) if target.is_absolute() && select::may_be_left_out(path, &target) => Ok(None),
        Ok(target) => open_linked(origin.top, &origin.dir, from)
            .with_context(|| format!("{} is a link to {}", from.display(), target.display()))
            .map(Some),
    }
}

/// Whether `elf` is ld.so: it needs no library, and the kernel executes it.
pub(super) fn is_interpreter(elf: &Elf) -> bool {
    let name = elf.soname.as_deref().and_then(Path::file_name);
    elf.needed.is_empty() && name.is_some_and(|name| name.as_bytes().starts_with(b"ld-"))
}

/// Replaces the first directory of the path `dir` by dashes, wherever the path stands in `bytes`.
/// The C library of a prefix contains its own paths (locales, converters, caches), and would load
/// the owner's code by them. Only root could make such a directory in `/`. Lengths stay.
fn lead_nowhere(bytes: &mut [u8], dir: &Path) {
    let needle = dir.as_os_str().as_bytes();
    let first = needle.iter().skip(1).position(|byte| *byte == b'/').unwrap_or(needle.len() - 1);
    let found: Vec<usize> = memchr::memmem::find_iter(bytes, needle).collect();
    for at in found {
        bytes[at + 1..=at + first].fill(b'-');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Layout;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn scene() -> (tempfile::TempDir, PathBuf, Staging) {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("work/root/userland");
        for sub in ["sbin", "lib/udev", "include", "share/etc/zfs/zed.d"] {
            fs::create_dir_all(dir.join(sub)).unwrap();
        }
        let staging =
            Staging::new(&Layout::new(root.path()), &"6.1.0-1-test".parse().unwrap()).unwrap();
        (root, dir, staging)
    }

    fn origin<'a>(root: &'a tempfile::TempDir, top: &'a Path, dir: &Path) -> Origin<'a> {
        Origin { top, dir: dir.to_owned(), owners: vec![root.path().join("home/core/gentoo")] }
    }

    fn modes(staging: &Staging) -> Vec<(String, u32)> {
        let mode = |path: &str| {
            let meta = fs::metadata(staging.dir().join(path)).unwrap();
            meta.permissions().mode() & 0o7777
        };
        let entries = crate::store::entries(staging.dir()).unwrap();
        entries.iter().map(|entry| (entry.path.clone(), mode(&entry.path))).collect()
    }

    #[test]
    fn programs_and_data_are_copied_links_flattened_and_what_is_not_wanted_left_out() {
        let (root, dir, staging) = scene();
        let write = |name: &str, text: &str, mode: u32| {
            fs::write(dir.join(name), text).unwrap();
            fs::set_permissions(dir.join(name), fs::Permissions::from_mode(mode)).unwrap();
        };
        write("sbin/fsck.zfs", "#!/bin/sh\n", 0o777);
        write("lib/udev/rules", "text", 0o666);
        write("share/etc/zfs/zed.d/functions.sh", "#!/bin/sh\n", 0o644);
        write("include/zfs.h", "", 0o644);
        symlink("fsck.zfs", dir.join("sbin/fsck")).unwrap();
        symlink("/run/x", dir.join("share/etc/zfs/zed.d/all.sh")).unwrap();
        // A program, and a library under three names of which one is its own.
        fs::copy("/proc/self/exe", dir.join("sbin/zpool")).unwrap();
        let libc = fs::canonicalize("/lib/x86_64-linux-gnu/libc.so.6").unwrap();
        fs::copy(&libc, dir.join("lib/libc-2.so")).unwrap();
        symlink("libc-2.so", dir.join("lib/libc.so.6")).unwrap();
        symlink("libc-2.so", dir.join("lib/libc.so")).unwrap();
        let top = root.path().join("work");
        origin(&root, &top, &dir).copy(&staging).unwrap();
        let expected = [
            ("userland/lib/libc.so.6", 0o644),
            ("userland/lib/udev/rules", 0o644),
            ("userland/sbin/fsck", 0o755),
            ("userland/sbin/fsck.zfs", 0o755),
            ("userland/sbin/zpool", 0o755),
            ("userland/share/etc/zfs/zed.d/functions.sh", 0o644),
        ];
        assert_eq!(modes(&staging), expected.map(|(path, mode)| (path.to_owned(), mode)));
        let staged = staging.dir().join("userland/lib/libc.so.6");
        assert!(fs::symlink_metadata(&staged).unwrap().is_file());
        assert!(fs::read(&staged).unwrap() == fs::read(libc).unwrap(), "the whole library");
    }

    #[test]
    fn a_setuid_program_and_links_that_lead_out_are_refused_by_name() {
        for (case, at) in [
            ("setuid", "sbin/su"),
            ("absolute", "sbin/absolute"),
            ("upwards", "sbin/upwards"),
            ("to a directory", "sbin/dir"),
            ("two names", "sbin/two"),
            ("a FIFO", "sbin/fifo"),
        ] {
            let (root, dir, staging) = scene();
            let path = dir.join(at);
            let secret = root.path().join("secret");
            fs::write(&secret, "root's").unwrap();
            match case {
                "setuid" => {
                    fs::write(&path, "#!/bin/sh\n").unwrap();
                    fs::set_permissions(&path, fs::Permissions::from_mode(0o4755)).unwrap();
                }
                "absolute" => symlink(&secret, &path).unwrap(),
                "upwards" => symlink("../../../../secret", &path).unwrap(),
                "to a directory" => symlink("../lib", &path).unwrap(),
                "two names" => fs::hard_link(&secret, &path).unwrap(),
                _ => nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap(),
            }
            let top = root.path().join("work");
            let error = origin(&root, &top, &dir).copy(&staging).expect_err(case);
            assert_eq!(crate::exit::of(&error), Exit::Refused, "{case}: {error:#}");
            assert!(format!("{error:#}").contains(at), "{case}: {error:#}");
        }
    }

    #[test]
    fn paths_of_the_prefix_lead_nowhere_and_keep_their_length() {
        let mut bytes = b"x\0/home/core/gentoo/usr/lib/gconv\0/home/core/gentoo\0/home/x".to_vec();
        lead_nowhere(&mut bytes, Path::new("/home/core/gentoo"));
        assert_eq!(bytes, b"x\0/----/core/gentoo/usr/lib/gconv\0/----/core/gentoo\0/home/x");
        let mut bytes = b"/gentoo/lib\0".to_vec();
        lead_nowhere(&mut bytes, Path::new("/gentoo"));
        assert_eq!(bytes, b"/------/lib\0");
    }
}
