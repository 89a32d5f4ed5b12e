//! The file in which OpenZFS remembers the pools it imported.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use serde::Serialize;

use super::nvlist;

/// What OpenZFS remembers of the pools it imported.
pub const CACHE: &str = "/etc/zfs/zpool.cache";
/// The largest file that is read, far above any real one: a pool of a thousand disks has less than
/// 1 MiB.
pub(super) const LARGEST: u64 = 16 << 20;

/// What there is at [`CACHE`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CacheFile {
    /// Nothing: no pool was imported here yet, or the machine was set up anew.
    Missing,
    /// A file of no bytes.
    Empty,
    /// A file that cannot be read, or is no cache file. The text says why.
    Unusable(String),
    /// The pools in it.
    Pools(Vec<String>),
}

impl CacheFile {
    /// Reads the file at `path`.
    pub fn read(path: &Path) -> CacheFile {
        let mut bytes = Vec::new();
        // A device or a FIFO in its place is not read.
        let file = match std::fs::symlink_metadata(path).map(|_| std::fs::metadata(path)) {
            Err(e) if e.kind() == ErrorKind::NotFound => return CacheFile::Missing,
            Ok(Ok(meta)) if meta.is_file() => File::open(path),
            Ok(Ok(_)) => return CacheFile::Unusable("it is no regular file".to_owned()),
            Err(e) | Ok(Err(e)) => Err(e),
        };
        if let Err(e) = file.and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes)) {
            return CacheFile::Unusable(format!("it cannot be read: {e}"));
        }
        match bytes.len() as u64 {
            0 => CacheFile::Empty,
            n if n > LARGEST => CacheFile::Unusable(format!("it has more than {LARGEST} bytes")),
            n => match nvlist::pool_names(&bytes) {
                Ok(names) => CacheFile::Pools(names),
                Err(e) => CacheFile::Unusable(format!("it is damaged ({n} bytes; {e})")),
            },
        }
    }

    /// In words, and what follows from it.
    pub fn describe(&self) -> String {
        match self {
            CacheFile::Missing => {
                format!("there is no {CACHE}: no pool was imported here yet, or the file was lost")
            }
            CacheFile::Empty => format!(
                "{CACHE} is empty: the last pool in it was exported, or writing it was interrupted; \
                 zfs-import-cache.service skips itself"
            ),
            CacheFile::Unusable(why) => {
                format!("{CACHE} is of no use: {why}; zfs-import-cache.service imports nothing")
            }
            CacheFile::Pools(names) if names.is_empty() => format!("{CACHE} names no pool"),
            CacheFile::Pools(names) => format!("{CACHE} names {}", names.join(", ")),
        }
    }
}
