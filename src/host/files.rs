//! Files as a program sees them that may run before everything is mounted.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Error, ErrorKind, Read, Result};
use std::path::{Path, PathBuf};

use super::Host;
use super::links::{End, Way, follow};

/// Links into these dangle at boot and not at a daemon-reload, or the other way round.
const LATER: [&str; 2] = ["/run/zfs-prefix/active", "/var"];

/// The files of a machine. What is in a directory that is there only later does not exist.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Files<'h> {
    pub(crate) host: &'h Host,
    later: &'static [&'static str],
}

impl<'h> Files<'h> {
    /// As they are before /var is mounted. What is read here says the same at boot and at each
    /// daemon-reload: nothing below /var is opened, whatever link leads there.
    pub(crate) fn before_var(host: &'h Host) -> Files<'h> {
        Files { host, later: &LATER }
    }

    /// All that are there now.
    pub(crate) fn now(host: &'h Host) -> Files<'h> {
        Files { host, later: &[] }
    }

    /// Whether they are those of a boot that is not complete.
    pub(crate) fn is_early(&self) -> bool {
        !self.later.is_empty()
    }

    /// Where `path` leads, and what is there.
    pub(crate) fn way(&self, path: &Path) -> Way {
        follow(self.host, path, |at| self.later.iter().any(|later| at.starts_with(later)))
    }

    /// Where `path` leads, if that is there only later in a boot.
    pub(crate) fn later(&self, path: &Path) -> Option<PathBuf> {
        let way = self.way(path);
        matches!(way.end, End::Later).then_some(way.path)
    }

    /// Whether there is something at `path`, or a link of that name.
    pub(crate) fn exists(&self, path: &Path) -> bool {
        let above = path.parent().map(|above| self.way(above));
        match (above, path.file_name()) {
            (Some(Way { path, end: End::Here(_) }), Some(name)) => {
                std::fs::symlink_metadata(self.host.path(path.join(name))).is_ok()
            }
            _ => false,
        }
    }

    /// The content of the file at `path`.
    ///
    /// # Errors
    /// It cannot be read. It is no regular file. It has more than `most` bytes
    /// ([`ErrorKind::FileTooLarge`]). It is not there, or only later ([`ErrorKind::NotFound`]).
    pub(crate) fn read(&self, path: &Path, most: u64) -> Result<Vec<u8>> {
        let bytes = self.beginning(path, most + 1)?;
        if bytes.len() as u64 > most {
            return Err(Error::from(ErrorKind::FileTooLarge));
        }
        Ok(bytes)
    }

    /// The first `most` bytes of the file at `path`.
    ///
    /// # Errors
    /// As [`Files::read`], but for the size.
    pub(crate) fn beginning(&self, path: &Path, most: u64) -> Result<Vec<u8>> {
        let (path, meta) = match self.way(path) {
            Way { path, end: End::Here(meta) } => (path, meta),
            _ => return Err(Error::from(ErrorKind::NotFound)),
        };
        // A FIFO would hold up the boot for ever.
        if !meta.is_file() {
            return Err(Error::new(ErrorKind::InvalidInput, "it is no regular file"));
        }
        let size = usize::try_from(meta.len().min(most)).unwrap_or_default();
        let mut bytes = Vec::with_capacity(size + 1);
        File::open(self.host.path(path))?.take(most).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// The names in the directory at `path`, in no order.
    ///
    /// # Errors
    /// It cannot be read. It is not there, or only later ([`ErrorKind::NotFound`]).
    pub(crate) fn names(&self, path: &Path) -> Result<Vec<OsString>> {
        match self.way(path) {
            Way { path, end: End::Here(_) } => std::fs::read_dir(self.host.path(path))?
                .map(|entry| Ok(entry?.file_name()))
                .collect(),
            _ => Err(Error::from(ErrorKind::NotFound)),
        }
    }
}
