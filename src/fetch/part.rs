//! A download on disk: `<name>.part`, and beside it `<name>.part.json`, which says which file it is
//! a part of. If a transfer ends early, the download is kept. If it turns out to be wrong, it is
//! removed.

use std::fs::{self, File};
use std::io::{ErrorKind, Seek, SeekFrom};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::sys::statvfs::statvfs;
use serde::{Deserialize, Serialize};

use super::transfer::{Torn, transfer};
use super::{Answer, Get, Wanted, Watch, megabytes, open_file};
use crate::config::Source;
use crate::exit::{Exit, Failure, WithExit};
use crate::fail;
use crate::store::{Digest, make_dirs, write_atomic};

/// Bytes that a download of unknown size leaves free for others.
const RESERVE: u64 = 64 << 20;

/// The file that a part belongs to.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Of {
    /// Its [`identity`].
    source: String,
    /// Size of the whole file in bytes, if the server gave it.
    total: Option<u64>,
    /// For `If-Range`.
    validator: Option<String>,
}

/// The file that is downloaded into.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    /// Its path.
    pub(crate) path: PathBuf,
    of: PathBuf,
    dir: PathBuf,
}

impl Part {
    /// The part called `name` in `dir`. Makes the directory.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub(crate) fn new(dir: &Path, name: &str) -> Result<Part> {
        make_dirs(dir)?;
        // The owner of the prefix unpacks it from here.
        for dir in [dir, dir.parent().unwrap_or(dir)] {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o755))
                .with_context(|| format!("{}", dir.display()))?;
        }
        let path = dir.join(format!("{name}.part"));
        let of = dir.join(format!("{name}.part.json"));
        Ok(Part { path, of, dir: dir.to_owned() })
    }

    /// Removes every other download in its directory.
    ///
    /// # Errors
    /// The directory cannot be listed, or a download in it cannot be removed.
    pub(crate) fn remove_others(&self) -> Result<()> {
        let shown = || format!("{}", self.dir.display());
        for entry in fs::read_dir(&self.dir).with_context(shown)? {
            let other = entry.with_context(shown)?.path();
            if other != self.path && other != self.of {
                fs::remove_file(&other)
                    .with_context(|| format!("{}: cannot be removed", other.display()))?;
            }
        }
        Ok(())
    }

    /// Lets the prefix's owner read the download. Call this only after the check: before it, the
    /// source could be a link that the owner placed there, to a file that only root may read.
    ///
    /// # Errors
    /// Its mode cannot be changed.
    pub(crate) fn open_to_all(&self) -> Result<()> {
        fs::set_permissions(&self.path, fs::Permissions::from_mode(0o644))
            .with_context(|| format!("{}", self.path.display()))
    }

    /// Removes it.
    pub(crate) fn remove(&self) {
        for path in [&self.of, &self.path] {
            match fs::remove_file(path) {
                Err(e) if e.kind() != ErrorKind::NotFound => {
                    tracing::warn!("{}: cannot be removed: {e}", path.display());
                }
                _ => {}
            }
        }
    }

    /// Downloads `url`, and continues where an earlier download of the same file stopped.
    ///
    /// # Errors
    /// [`Exit::Network`], with the part kept; [`Exit::NoSpace`]; [`Exit::Refused`]: the size.
    pub(super) fn download(
        &self,
        wanted: &Wanted<'_>,
        url: &str,
        get: &Get,
        watch: &mut dyn Watch,
    ) -> Result<()> {
        let source = wanted.source;
        let mut of = self.earlier(source);
        let have = of.as_ref().map_or(0, |_| fs::metadata(&self.path).map_or(0, |m| m.len()));
        let mut answer = get(url, have, of.as_ref().and_then(|of| of.validator.as_deref()))?;
        if have > 0 && !continues(&answer, have, of.as_ref()) && answer.status != 200 {
            if is_whole(&answer, have, of.as_ref()) {
                return Ok(());
            }
            // The file on the server has changed, or the server does not support ranges.
            of = None;
            answer = get(url, 0, None)?;
        }
        let shown = source.to_string();
        let url = &*shown;
        let start = match answer.status {
            206 if of.is_some() => have,
            200 => 0,
            status => fail!(
                Exit::Network,
                "{url}: the server says {status}{}",
                meaning(status, wanted.key)
            ),
        };
        let total = match start {
            0 => answer.length,
            _ => answer.range.map(|(_, total)| total),
        };
        if let Some(total) = total {
            wanted.check_size(total)?;
        }
        let of = Of { source: identity(source), total, validator: answer.validator };
        let mut file = self.open(start)?;
        write_atomic(&self.of, &serde_json::to_vec(&of)?)?;
        let size = wanted.size.or(total);
        let limit = self.limit(wanted, start, size)?;
        if start > 0 {
            tracing::info!("going on from byte {start}");
        }
        watch.begin(start);
        let told = |have| watch.fetched(have, total);
        let got = transfer(answer.body, &mut file, start, limit, told);
        // The next run continues from these bytes.
        file.sync_all().with_context(|| format!("{}", self.path.display()))?;
        match (got, total) {
            (Ok(got), Some(total)) if got != total => {
                Err(broken(url, got, Some(total), "it closed the connection"))
            }
            (Ok(_), _) => Ok(()),
            (Err(Torn::Write(e)), _) => {
                Err(e).with_context(|| format!("{}: cannot be written", self.path.display()))
            }
            (Err(Torn::Read(got, e)), total) => Err(broken(url, got, total, &e.to_string())),
            (Err(Torn::TooSlow(got)), total) => {
                Err(broken(url, got, total, "less than 1 KB/s came for five minutes"))
            }
            (Err(Torn::TooMuch), _) => Err(too_much(wanted, limit, size)),
        }
    }

    /// The largest size that the part may reach. Fails if the disk has no room for it.
    fn limit(&self, wanted: &Wanted<'_>, start: u64, size: Option<u64>) -> Result<u64> {
        match size {
            Some(size) if size > wanted.largest && wanted.size.is_none() => fail!(
                Exit::Refused,
                "{}: {} are more than {} can have{}",
                wanted.source,
                megabytes(size),
                wanted.what,
                cure(wanted)
            ),
            Some(size) => self.check_space(wanted.what, size.saturating_sub(start)).map(|()| size),
            None => {
                let free = free_space(&self.dir)?.saturating_sub(RESERVE);
                Ok(start.saturating_add(free).min(wanted.largest))
            }
        }
    }

    /// Copies a file, from its beginning.
    ///
    /// # Errors
    /// [`Wanted::unreadable`]; [`Exit::NoSpace`]; [`Exit::Refused`]: the size.
    pub(super) fn copy(
        &self,
        wanted: &Wanted<'_>,
        path: &Path,
        watch: &mut dyn Watch,
    ) -> Result<()> {
        let (from, size) = open_file(path)
            .with_context(|| format!("{} {}", wanted.what, path.display()))
            .exit(wanted.unreadable)?;
        wanted.check_size(size)?;
        let mut file = self.open(0)?;
        self.check_space(wanted.what, size)?;
        let told = |have| watch.fetched(have, Some(size));
        match transfer(from, &mut file, 0, size, told) {
            Ok(_) => Ok(()),
            Err(Torn::TooMuch) => {
                fail!(Exit::Refused, "{}: it is being written to", path.display())
            }
            Err(Torn::TooSlow(_)) => {
                fail!(Exit::Other, "{}: less than 1 KB/s can be read", path.display())
            }
            Err(Torn::Write(e)) => {
                Err(e).with_context(|| format!("{}: cannot be written", self.path.display()))
            }
            Err(Torn::Read(_, e)) => {
                Err(e).with_context(|| format!("{}: cannot be read", path.display()))
            }
        }
    }

    /// The record of the part on disk, if it belongs to `source`.
    fn earlier(&self, source: &Source) -> Option<Of> {
        let of: Of = serde_json::from_slice(&fs::read(&self.of).ok()?).ok()?;
        (of.source == identity(source)).then_some(of)
    }

    fn open(&self, start: u64) -> Result<File> {
        let open = || -> std::io::Result<File> {
            let mut file = File::options()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW)
                .open(&self.path)?;
            file.set_permissions(fs::Permissions::from_mode(0o600))?;
            file.set_len(start)?;
            file.seek(SeekFrom::Start(start))?;
            Ok(file)
        };
        open().with_context(|| format!("{}", self.path.display()))
    }

    fn check_space(&self, what: &str, needed: u64) -> Result<()> {
        let free = free_space(&self.dir)?;
        if needed > free {
            fail!(
                Exit::NoSpace,
                "{what} needs {} more in {}, {} are free",
                megabytes(needed),
                self.dir.display(),
                megabytes(free)
            );
        }
        Ok(())
    }
}

/// A text that identifies a source. The query counts, but is not recorded.
fn identity(source: &Source) -> String {
    format!("{source} {}", &Digest::of(source.full().as_bytes()).as_str()[..32])
}

/// Bytes that may be written to the file system of `dir`.
fn free_space(dir: &Path) -> Result<u64> {
    let vfs = statvfs(dir).with_context(|| format!("statvfs {}", dir.display()))?;
    Ok(vfs.blocks_available().saturating_mul(vfs.fragment_size()))
}

/// Whether the answer continues the part: it starts where the part ends, and is of the same file.
fn continues(answer: &Answer, have: u64, of: Option<&Of>) -> bool {
    let known = of.and_then(|of| of.total);
    // Some servers ignore If-Range.
    let validators = (of.and_then(|of| of.validator.as_ref()), answer.validator.as_ref());
    let another = matches!(validators, (Some(ours), Some(theirs)) if ours != theirs);
    answer.status == 206
        && !another
        && answer
            .range
            .is_some_and(|(start, total)| start == have && known.is_none_or(|known| known == total))
}

/// Whether the part is the whole file already, so that the server has nothing left to send.
fn is_whole(answer: &Answer, have: u64, of: Option<&Of>) -> bool {
    let total = of.and_then(|of| of.total);
    answer.status == 416
        && total == Some(have)
        && answer.range.is_none_or(|(_, total)| total == have)
}

fn meaning(status: u16, key: &str) -> String {
    match status {
        401 | 403 => ": it does not give this file without authorization".to_owned(),
        404 | 410 => format!(": it has no such file; check {key}"),
        429 | 500..=599 => ": it cannot help now; try again later".to_owned(),
        _ => String::new(),
    }
}

fn cure(wanted: &Wanted<'_>) -> String {
    let text = |key| format!("; if it is right, set {key}");
    wanted.size_key.map_or_else(String::new, text)
}

fn broken(url: &str, got: u64, total: Option<u64>, why: &str) -> anyhow::Error {
    let of = total.map_or_else(String::new, |total| format!(" of {total}"));
    let text = format!(
        "{url}: the transfer stopped after {got}{of} bytes: {why}; the next try goes on from there"
    );
    Failure::new(Exit::Network, text).into()
}

fn too_much(wanted: &Wanted<'_>, limit: u64, size: Option<u64>) -> anyhow::Error {
    let url = wanted.source;
    let (exit, why) = match size {
        Some(_) => (Exit::Refused, "the expected size; it is another file".to_owned()),
        None if limit == wanted.largest => {
            (Exit::Refused, format!("more than {} can have{}", wanted.what, cure(wanted)))
        }
        None => (Exit::NoSpace, format!("all free space but {}", megabytes(RESERVE))),
    };
    let text =
        format!("{url}: the server sends more than {limit} bytes, {why}. The download was removed");
    Failure::new(exit, text).into()
}
