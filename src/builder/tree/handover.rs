//! Files that root gives to the prefix's owner for a tree. The owner reads and copies them. They
//! are in a directory that only root can write to: in its own directory the owner could replace a
//! name by a link.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::host::Release;
use crate::store::{Layout, make_dirs};

/// The directory, removed when dropped.
#[derive(Debug)]
pub struct Handover(PathBuf);

impl Handover {
    /// Writes `files` (name, content) to a directory beside the work directory of a build of
    /// `release`. The caller holds the build lock.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn make(layout: &Layout, release: &Release, files: &[(&str, &[u8])]) -> Result<Handover> {
        let dir = layout.cache().join("build").join(format!("{release}.given"));
        let shown = || format!("{}", dir.display());
        remove(&dir).with_context(shown)?;
        make_dirs(&dir)?;
        let handover = Handover(dir.clone());
        for (name, bytes) in files {
            let path = handover.path(name);
            fs::write(&path, bytes).with_context(|| format!("{}", path.display()))?;
        }
        Ok(handover)
    }

    /// Where the file of this name is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Handover {
    fn drop(&mut self) {
        // If this fails, only disk space is lost. The next build removes the directory too.
        remove(&self.0).unwrap_or_else(|e| tracing::warn!("{}: {e}", self.0.display()));
    }
}

fn remove(dir: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
