//! Only what root wrote is loaded. Checks owner, mode and kind of everything on the way to a
//! module.

use std::fs::{self, File, Metadata};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, Result};

use crate::exit::{Exit, Failure, WithExit};
use crate::fail;

const ADVICE: &str = "nothing is loaded from it; find out who changed it, then build anew: systemctl start zfs-build";

/// Checks that `path`, which published trees are in, is a directory that only `owner` can write to.
/// A build does not make it anew: somebody has to take it back first.
pub(crate) fn above(path: &Path, owner: u32) -> Result<()> {
    let meta = fs::symlink_metadata(path)
        .with_context(|| format!("the store is damaged: {}", path.display()))
        .exit(Exit::Refused)?;
    let path = path.display();
    if !meta.is_dir() {
        fail!(
            Exit::Refused,
            "{path} is {}, not a directory; nothing is loaded from it; find out who changed it, remove it, and then: systemctl start zfs-build",
            kind(&meta)
        );
    }
    writers(&meta, owner).map_err(|what| {
        let taken_back = format!("chown {owner} {path} && chmod go-w {path}");
        let text = format!(
            "{path} {what}; nothing is loaded from it; find out who changed it, and then: {taken_back} && systemctl start zfs-build"
        );
        Failure::new(Exit::Refused, text).into()
    })
}

/// Checks that `path` is a directory of a published tree that only `owner` can write to.
pub(crate) fn directory(path: &Path, owner: u32) -> Result<()> {
    let meta = fs::symlink_metadata(path)
        .with_context(|| format!("the store is damaged: {}", path.display()))
        .exit(Exit::Refused)?;
    if !meta.is_dir() {
        fail!(Exit::Refused, "{} is {}, not a directory; {ADVICE}", path.display(), kind(&meta));
    }
    refuse(path, writers(&meta, owner))
}

/// Opens a regular file that only `owner` can write to. Returns the file and its size.
pub(crate) fn file(path: &Path, owner: u32) -> Result<(File, u64)> {
    let file = File::options()
        .read(true)
        // NONBLOCK: a FIFO in its place must not stop the boot.
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK)
        .open(path)
        .with_context(|| format!("the store is damaged: {}", path.display()))
        .exit(Exit::Refused)?;
    let meta = file.metadata().with_context(|| format!("{}", path.display()))?;
    if !meta.is_file() {
        fail!(Exit::Refused, "{} is {}, not a regular file; {ADVICE}", path.display(), kind(&meta));
    }
    refuse(path, writers(&meta, owner))?;
    Ok((file, meta.len()))
}

/// Checks the owner of a symlink (its mode means nothing).
pub(crate) fn link(path: &Path, owner: u32) -> Result<()> {
    let meta = fs::symlink_metadata(path).with_context(|| format!("{}", path.display()))?;
    if meta.uid() != owner {
        fail!(
            Exit::Refused,
            "{} belongs to uid {}, not {owner}; {ADVICE}",
            path.display(),
            meta.uid()
        );
    }
    Ok(())
}

fn refuse(path: &Path, writers: Result<(), String>) -> Result<()> {
    writers.map_err(|what| {
        Failure::new(Exit::Refused, format!("{} {what}; {ADVICE}", path.display())).into()
    })
}

/// Who else than `owner` can write to it, in words.
fn writers(meta: &Metadata, owner: u32) -> Result<(), String> {
    if meta.uid() != owner {
        return Err(format!("belongs to uid {}, not {owner}", meta.uid()));
    }
    if meta.mode() & 0o022 != 0 {
        let mode = meta.mode() & 0o7777;
        return Err(format!("has mode {mode:04o}: others than its owner can write to it"));
    }
    Ok(())
}

fn kind(meta: &Metadata) -> &'static str {
    match meta.file_type() {
        t if t.is_symlink() => "a symlink",
        t if t.is_dir() => "a directory",
        t if t.is_file() => "a regular file",
        _ => "a special file",
    }
}
