//! Unpacks an archive of a prefix into an empty directory, with the rights of the prefix's owner.
//! The archive is signed, but nothing here relies on that. Unpacking ends with an error at an entry
//! that would change anything outside, or that gives rights that a prefix does not need.

mod place;
mod rules;
mod stream;

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::statvfs::fstatvfs;

use crate::exit::{Exit, Failure, WithExit};
use crate::fail;
use crate::fetch::megabytes;
use crate::prefix::origin::MARK;
use place::Tree;
use rules::{Inside, Kind};

/// The most entries: ten times as many as a large prefix has.
const ENTRIES: u64 = 3_000_000;
/// How often progress is reported.
const TOLD_EVERY: Duration = Duration::from_millis(200);

/// What was unpacked so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Entries of every kind.
    pub files: u64,
    /// Content of files, in bytes.
    pub bytes: u64,
}

/// Unpacks `archive` (tar; zstd, gzip, xz or not compressed) into the empty directory `dir`. The
/// tree will be at `eprefix`, and links in it may name that path. Writes `mark` as [`MARK`].
/// Returns when everything is on disk.
///
/// # Errors
/// [`Exit::Refused`]: an entry is not allowed, or the archive ends early or is no archive.
/// [`Exit::NoSpace`]: an entry does not fit on the disk. It is not written.
pub fn unpack(
    archive: &Path,
    dir: &Path,
    eprefix: &Path,
    mark: &str,
    told: impl Fn(&Done),
) -> Result<Done> {
    let file = File::open(archive).with_context(|| format!("{}", archive.display()))?;
    let mut tree = Tree::open(dir)?;
    let free = free(&tree)?;
    let size = file.metadata().with_context(|| format!("{}", archive.display()))?.len();
    let stream = stream::open(file).exit(Exit::Refused)?;
    let needed = stream.content_size.unwrap_or(0).max(size);
    if needed > free {
        fail!(
            Exit::NoSpace,
            "the unpacked archive needs {} at least; {} are free in {}",
            megabytes(needed),
            megabytes(free),
            dir.display()
        );
    }
    let mut tail = stream::Tail::new(stream.reader);
    let mut archive = tar::Archive::new(&mut tail);
    let done = entries(&mut archive, &mut tree, &Inside::of(eprefix), told)?;
    // Read what follows the end mark too: it may be the checksum of the compression.
    let rest = std::io::copy(archive.into_inner(), &mut std::io::sink());
    rest.map_err(|e| torn(&e, "its end"))?;
    if !tail.ended() {
        fail!(
            Exit::Refused,
            "the archive has no end mark: it was cut off after {} entries",
            done.files
        );
    }
    tree.finish()?;
    write_mark(dir, mark)?;
    nix::unistd::syncfs(tree.root()).with_context(|| format!("{}: syncfs", dir.display()))?;
    Ok(done)
}

fn entries<R: Read>(
    archive: &mut tar::Archive<R>,
    tree: &mut Tree,
    inside: &Inside,
    told: impl Fn(&Done),
) -> Result<Done> {
    let mut done = Done::default();
    let mut told_at = Instant::now();
    for entry in archive.entries().map_err(|e| torn(&e, "its beginning"))? {
        let after = || format!("what follows entry {}", done.files);
        let mut entry = entry.map_err(|e| torn(&e, &after()))?;
        let Some(rule) = rules::check(&entry, inside).exit(Exit::Refused)? else { continue };
        let shown = rule.shown();
        match &rule.kind {
            Kind::Root => Ok(()),
            Kind::Directory => tree.directory(&rule.path, rule.mode, rule.mtime),
            Kind::Symlink(target) => tree.symlink(&rule.path, target, rule.mtime),
            Kind::HardLink(target) => tree.hard_link(&rule.path, target),
            Kind::File(size) => {
                let free = free(tree)?;
                if *size > free {
                    fail!(
                        Exit::NoSpace,
                        "{shown} needs {}, {} are free",
                        megabytes(*size),
                        megabytes(free)
                    );
                }
                file(tree, &rule, *size, &mut entry).map(|()| done.bytes += size)
            }
        }
        .with_context(|| shown.clone())?;
        done.files += 1;
        if done.files > ENTRIES {
            fail!(Exit::Refused, "the archive has more than {ENTRIES} entries: no prefix");
        }
        if told_at.elapsed() >= TOLD_EVERY {
            told(&done);
            told_at = Instant::now();
        }
    }
    Ok(done)
}

fn file(tree: &mut Tree, rule: &rules::Entry, size: u64, content: &mut impl Read) -> Result<()> {
    let mut file = tree.create(&rule.path)?;
    let mut block = [0; 64 * 1024];
    let mut written = 0;
    loop {
        match content.read(&mut block) {
            Ok(0) => break,
            Ok(n) => {
                file.write_all(&block[..n])?;
                written += n as u64;
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(torn(&e, &rule.shown())),
        }
    }
    if written != size {
        fail!(Exit::Refused, "the archive ends in the middle of it: {written} of {size} bytes");
    }
    place::finish_file(&file, rule.mode, rule.mtime)
}

fn free(tree: &Tree) -> Result<u64> {
    let vfs = fstatvfs(tree.root()).context("fstatvfs")?;
    Ok(vfs.blocks_available().saturating_mul(vfs.fragment_size()))
}

fn write_mark(dir: &Path, mark: &str) -> Result<()> {
    let path: PathBuf = dir.join(MARK);
    let write = || -> std::io::Result<()> {
        // An archive that was made from a provisioned prefix contains a mark.
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = File::options().write(true).create_new(true).mode(0o644).open(&path)?;
        writeln!(file, "{mark}")?;
        file.set_permissions(std::fs::Permissions::from_mode(0o644))
    };
    write().with_context(|| format!("{}", path.display()))
}

/// The error for what the decompressor or the reader of the tar format complains about.
fn torn(error: &std::io::Error, place: &str) -> anyhow::Error {
    let why = match error.kind() {
        ErrorKind::UnexpectedEof => "it was cut off".to_owned(),
        _ => error.to_string(),
    };
    let text = format!("the archive is damaged at {place}: {why}");
    Failure::new(Exit::Refused, text).into()
}
