//! Writing a plan: links and drop-ins that are either whole or not there.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::Directories;

/// Which of the output directories an entry goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Precedence {
    /// Below /etc/systemd/system and /run/systemd/system, above /usr.
    Normal,
    /// Above all.
    Early,
}

/// One thing to write.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) precedence: Precedence,
    /// Below the output directory.
    pub(super) path: PathBuf,
    pub(super) what: What,
}

impl Entry {
    /// The drop-in of `unit`, which may be somebody else's.
    pub(super) fn drop_in(unit: &str, text: String) -> Entry {
        let path = PathBuf::from(format!("{unit}.d/50-zfs-prefix.conf"));
        Entry { precedence: Precedence::Normal, path, what: What::File(text) }
    }
}

/// What an entry is.
#[derive(Clone, Debug)]
pub(super) enum What {
    Link(PathBuf),
    File(String),
}

/// Writes `entry`. If the same one exists already, that is fine; anything else there is an error.
pub(super) fn write(directories: &Directories, entry: &Entry) -> anyhow::Result<()> {
    let directory = match entry.precedence {
        Precedence::Normal => &directories.normal,
        Precedence::Early => &directories.early,
    };
    let path = directory.join(&entry.path);
    match &entry.what {
        What::Link(target) => link(&path, target),
        What::File(text) => file(&path, text),
    }
}

/// Does `work`, which makes something at `path`. Makes the directory only where there is none: most
/// are there.
fn made<T>(path: &Path, mut work: impl FnMut() -> std::io::Result<T>) -> std::io::Result<T> {
    match (work(), path.parent()) {
        (Err(e), Some(parent)) if e.kind() == ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
            work()
        }
        (done, _) => done,
    }
}

fn link(path: &Path, target: &Path) -> anyhow::Result<()> {
    match made(path, || symlink(target, path)) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => match std::fs::read_link(path) {
            Ok(present) if present == target => Ok(()),
            _ => bail!(
                "{} is there already, and is not a link to {}",
                path.display(),
                target.display()
            ),
        },
        other => other.with_context(|| format!("cannot create the link {}", path.display())),
    }
}

fn file(path: &Path, text: &str) -> anyhow::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o644);
    let opened = made(path, || options.open(path));
    let mut file = match opened {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            if std::fs::read(path).is_ok_and(|present| present == text.as_bytes()) {
                return Ok(());
            }
            bail!("{} is there already with other content", path.display());
        }
        other => other.with_context(|| format!("cannot create {}", path.display()))?,
    };
    file.write_all(text.as_bytes()).map_err(|e| {
        // Half a line can be a valid setting: TimeoutStartSec=18 for 1800.
        let _ = std::fs::remove_file(path);
        anyhow::Error::from(e).context(format!("cannot write {}", path.display()))
    })
}
