//! A file in the cache. It is fetched once and proved, and it is complete if it has its name.
//! Beside it, the record `<name>.json` says what it is. The record is written last: a file without
//! one does not count.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::keep::{keep, used};
use super::proof::{Proof, check_owner};
use super::{Obtain, signature};
use crate::config::Source;
use crate::exit::{self, Exit, WithExit};
use crate::fail;
use crate::fetch::{self, Part, Wanted, Watch, megabytes, network};
use crate::process::Interrupted;
use crate::store::{Digest, sync_dir, write_atomic};

/// How many files are kept: tarballs and patches of the running kernel, of the next, and of
/// OpenZFS.
const KEPT: usize = 24;
/// What was used within this time is kept. The kernel's source and OpenZFS's are obtained one after
/// the other, an hour apart at most.
const RECENT: Duration = Duration::from_secs(24 * 3600);
/// How long an incomplete download is kept, so that it can go on.
const LEFT: Duration = Duration::from_secs(7 * 24 * 3600);
/// The progress of a transfer is reported at most this often.
const SAID_EVERY: Duration = Duration::from_millis(500);

/// What a signature is made over, and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signed {
    /// The uncompressed tarball. The signature is `x.tar.sign` beside `x.tar.xz`, as in the
    /// kernel's archive.
    Uncompressed,
    /// The file. The signature is `x.asc` beside `x`.
    File,
    /// An RPM. It contains its signature.
    Rpm,
}

/// A file that is wanted.
#[derive(Clone, Debug)]
pub(super) struct Cached {
    pub(super) source: Source,
    /// The key of the configuration that names it.
    pub(super) key: &'static str,
    /// What it is, for messages: "a patch".
    pub(super) what: &'static str,
    /// The most bytes it can have.
    pub(super) largest: u64,
    pub(super) proof: Proof,
    /// None: no signature exists. Only a digest can prove the file.
    pub(super) signed: Option<Signed>,
    /// The exit status if it is on this machine and cannot be read.
    pub(super) unreadable: Exit,
}

/// A file in the cache.
#[derive(Clone, Debug)]
pub(super) struct Got {
    pub(super) path: PathBuf,
    pub(super) sha256: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    version: u32,
    source: String,
    sha256: String,
    size: u64,
    proof: String,
    /// The version of the source, if that is on this machine.
    stamp: String,
}

impl Cached {
    /// Gets it, or finds it in the cache.
    ///
    /// # Errors
    /// [`Exit::Network`], [`Exit::Refused`], [`Exit::NoSpace`], [`Cached::unreadable`].
    pub(super) fn get(&self, with: &mut Obtain<'_>) -> Result<Got> {
        if let (Source::File(path), Proof::Local) = (&self.source, &self.proof) {
            check_owner(path, with.prefix.user.uid)
                .with_context(|| format!("{}: {}", self.key, path.display()))
                .exit(self.unreadable)?;
        }
        let dir = with.dir("files")?;
        let name = self.name();
        let (path, record) = (dir.join(&name), dir.join(format!("{name}.json")));
        if let Some(sha256) = self.whole(&path, &record)? {
            used(&record);
            return Ok(Got { path, sha256 });
        }
        if matches!(self.source, Source::Https(_)) {
            if !with.network {
                fail!(
                    Exit::Network,
                    "{} was not fetched yet, and there is no network this early",
                    self.source
                );
            }
            network::wait_for_network(with.cancel);
        }
        let part = Part::new(&dir, &name)?;
        let fetched = self.fetch(with, &part).inspect_err(|error| {
            // Remove a wrong part: otherwise every try would go on from it.
            if matches!(exit::of(error), Exit::Refused | Exit::NoSpace) {
                part.remove();
            }
        });
        let (sha256, size) = fetched?;
        File::open(&part.path)?.sync_all()?;
        fs::rename(&part.path, &path).with_context(|| format!("{}", path.display()))?;
        sync_dir(&dir)?;
        let of = Record {
            version: 1,
            source: self.source.to_string(),
            sha256: sha256.clone(),
            size,
            proof: self.proof.shown(),
            stamp: self.stamp(),
        };
        write_atomic(&record, &serde_json::to_vec(&of)?)?;
        part.remove();
        Ok(Got { path, sha256 })
    }

    /// Its name in the cache. Another URL, digest or key gives another name.
    fn name(&self) -> String {
        let of = format!("{}\n{}", self.source.full(), self.proof.identity());
        format!("{}-{}", &Digest::of(of.as_bytes()).as_str()[..16], fetch::name(&self.source))
    }

    /// The digest of the file, if it is in the cache and its source is still the same. Reads the
    /// file again: it counts as proved, but may have been damaged since. Removes a damaged file.
    ///
    /// # Errors
    /// It cannot be removed.
    fn whole(&self, path: &Path, record: &Path) -> Result<Option<String>> {
        let Some(known) = self.recorded(path, record) else { return Ok(None) };
        // A file that cannot be read, on a failing disk, counts as damaged.
        let found = sha256(path).map_or_else(|e| format!("unknown: {e:#}"), |(sha256, _)| sha256);
        if found == known {
            return Ok(Some(known));
        }
        tracing::warn!(
            "{}: damaged since it was fetched (its SHA-256 is {found}, it was {known}); it is fetched again",
            path.display()
        );
        let shown = || format!("{}: cannot be removed", path.display());
        // Remove the record first: without it the file counts for nothing.
        fs::remove_file(record).with_context(shown)?;
        fs::remove_file(path).with_context(shown)?;
        Ok(None)
    }

    /// The recorded digest of the file, if the file exists and its source has not changed.
    fn recorded(&self, path: &Path, record: &Path) -> Option<String> {
        let record: Record = serde_json::from_slice(&fs::read(record).ok()?).ok()?;
        let meta = fs::symlink_metadata(path).ok()?;
        let same = meta.is_file() && meta.len() == record.size && record.stamp == self.stamp();
        same.then_some(record.sha256)
    }

    fn stamp(&self) -> String {
        let Source::File(path) = &self.source else { return String::new() };
        fs::metadata(path).map_or_else(
            |_| String::new(),
            |m| format!("{} {} {} {}", m.ino(), m.len(), m.mtime(), m.mtime_nsec()),
        )
    }

    fn fetch(&self, with: &mut Obtain<'_>, part: &Part) -> Result<(String, u64)> {
        with.say(&format!("fetching {}", self.source));
        let signature = match &self.proof {
            Proof::Keys(_) => {
                let this = self.clone();
                apart(with, move |_| this.signature())?
            }
            _ => None,
        };
        self.transfer(with, part)?;
        let (sha256, size) = sha256(&part.path)?;
        if let Proof::Sha256(expected) = &self.proof
            && *expected != sha256
        {
            fail!(
                Exit::Refused,
                "{}: its SHA-256 is {sha256}, {} says {expected}; it is another file, or damaged. The download was removed",
                self.source,
                self.key
            );
        }
        part.open_to_all()?;
        if let Proof::Keys(keys) = &self.proof {
            let shown = self.source.to_string();
            match self.signed {
                Some(Signed::Rpm) => signature::rpm(with, &part.path, keys, &shown)?,
                Some(Signed::File | Signed::Uncompressed) => {
                    let signature = signature.unwrap_or_default();
                    let packed = match self.signed {
                        Some(Signed::Uncompressed) => fetch::name(&self.source),
                        _ => String::new(),
                    };
                    signature::detached(with, &part.path, &packed, &signature, keys, &shown)?;
                }
                None => fail!(Exit::Refused, "{shown}: nothing says where its signature is"),
            }
        }
        tracing::info!("{}: {} bytes, {}", self.source, size, self.proof.shown());
        Ok((sha256, size))
    }

    /// The text of the signature, if that is a file beside it.
    fn signature(&self) -> Result<Option<String>> {
        let (of, suffix) = match self.signed {
            None | Some(Signed::Rpm) => return Ok(None),
            Some(Signed::File) => (self.source.clone(), ".asc"),
            Some(Signed::Uncompressed) => (uncompressed(&self.source), ".sign"),
        };
        let get = match &of {
            Source::Https(_) => Some(fetch::client()?),
            Source::File(_) => None,
        };
        match fetch::beside(&of, suffix, get.as_ref(), 64 * 1024)? {
            Ok(text) => Ok(Some(text)),
            Err(why) => fail!(
                Exit::Refused,
                "{why}: {} has no signature beside it, and {}-key demands one",
                self.source,
                self.key
            ),
        }
    }

    fn transfer(&self, with: &mut Obtain<'_>, part: &Part) -> Result<()> {
        let (this, part) = (self.clone(), part.clone());
        apart(with, move |tell| {
            let wanted = Wanted {
                source: &this.source,
                key: this.key,
                what: this.what,
                size: None,
                largest: this.largest,
                size_key: None,
                unreadable: this.unreadable,
            };
            fetch::file(&wanted, None, &part, tell)
        })
    }
}

/// Does `work` in another thread, so that a signal takes effect while a server is silent. That
/// thread ends with the process. What it still writes goes to a part, which counts for nothing.
fn apart<T: Send + 'static>(
    with: &mut Obtain<'_>,
    work: impl FnOnce(&mut dyn Watch) -> Result<T> + Send + 'static,
) -> Result<T> {
    let (said, hears) = mpsc::channel();
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let result = work(&mut Tell { sender: said, said: None });
        // After a signal nobody receives this any more.
        let _ = sender.send(result);
    });
    loop {
        match receiver.recv_timeout(Duration::from_millis(100)) {
            Ok(result) => return result,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => fail!(Exit::Other, "the transfer broke off"),
        }
        if let Some(text) = hears.try_iter().last() {
            (with.report)(&text);
        }
        if with.cancel.is_set() {
            return Err(Interrupted.into());
        }
    }
}

struct Tell {
    sender: Sender<String>,
    said: Option<Instant>,
}

impl Watch for Tell {
    fn begin(&mut self, _have: u64) {}

    fn fetched(&mut self, have: u64, total: Option<u64>) {
        if self.said.is_some_and(|at| at.elapsed() < SAID_EVERY) {
            return;
        }
        self.said = Some(Instant::now());
        let of = total.map_or_else(String::new, |total| format!(" of {}", megabytes(total)));
        let _ = self.sender.send(format!("fetched {}{of}", megabytes(have)));
    }
}

/// `x.tar` of `x.tar.xz`.
fn uncompressed(source: &Source) -> Source {
    let cut = |text: &str| {
        if let Some((name, "tgz" | "txz" | "tbz2" | "tzst")) = text.rsplit_once('.') {
            return format!("{name}.tar");
        }
        let end = text.rfind(".tar.").map_or(text.len(), |at| at + ".tar".len());
        text[..end].to_owned()
    };
    match source {
        Source::Https(url) => {
            let (path, query) = url.split_at(url.find(['?', '#']).unwrap_or(url.len()));
            Source::Https(cut(path) + query)
        }
        Source::File(path) => Source::File(cut(&path.to_string_lossy()).into()),
    }
}

fn sha256(path: &Path) -> Result<(String, u64)> {
    let hash = || -> std::io::Result<(String, u64)> {
        let mut state = Sha256::new();
        let size = std::io::copy(&mut File::open(path)?, &mut state)?;
        Ok((format!("{:x}", state.finalize()), size))
    };
    hash().with_context(|| format!("{}", path.display()))
}

/// Removes old files after everything was obtained. Never removes what was `used` for that, however
/// much it is. Also removes what is left of transfers that nobody went on with.
///
/// # Errors
/// Something cannot be removed.
pub(super) fn tidy(with: &Obtain<'_>, used: &[PathBuf]) -> Result<()> {
    let dir = with.dir("files")?;
    let used: Vec<PathBuf> = used.iter().map(|path| record_of(path)).collect();
    keep(&dir, KEPT, RECENT, &used)?;
    sweep(&dir)
}

fn record_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".json");
    name.into()
}

/// Removes files without a record that are older than [`LEFT`]: a download that broke off or a
/// crash left them.
fn sweep(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("{}", dir.display()))? {
        let path = entry?.path();
        let name = path.to_string_lossy();
        let record = name.ends_with(".json") && !name.ends_with(".part.json");
        let age = fs::symlink_metadata(&path)?.modified()?.elapsed().unwrap_or_default();
        if !record && !record_of(&path).exists() && age > LEFT {
            tracing::info!("{}: left over, removed", path.display());
            fs::remove_file(&path)
                .with_context(|| format!("{}: cannot be removed", path.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "cached_tests.rs"]
mod tests;
