//! Which fetched files and unpacked trees are kept, and for how long. A record beside each says
//! when it was last used.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};

use crate::store::sync_dir;

/// Notes in a record that its file or tree was used now. If that fails, it may be removed too
/// early.
pub(super) fn used(record: &Path) {
    if let Ok(file) = File::options().write(true).open(record) {
        let _ = file.set_modified(SystemTime::now());
    }
}

/// Keeps the `most` records in `dir` that were used last, and removes all others with their files
/// or trees. Never removes what was used within `recent`, because this build may need it. Never
/// removes `spared`.
///
/// # Errors
/// Something cannot be removed.
pub(super) fn keep(dir: &Path, most: usize, recent: Duration, spared: &[PathBuf]) -> Result<()> {
    let (mut records, mut stay) = (Vec::new(), 0);
    for entry in fs::read_dir(dir).with_context(|| format!("{}", dir.display()))? {
        let path = entry?.path();
        let name = path.to_string_lossy();
        if !name.ends_with(".json") || name.ends_with(".part.json") {
            continue;
        }
        let at = fs::metadata(&path)?.modified()?;
        // A time in the future counts as recent: the clock was set back.
        if spared.contains(&path) || at.elapsed().map_or(true, |age| age < recent) {
            stay += 1
        } else {
            records.push((at, path))
        }
    }
    records.sort();
    let many = (records.len() + stay).saturating_sub(most);
    for (_, record) in records.into_iter().take(many) {
        let of = record.with_extension("");
        tracing::info!("{}: not used for long, removed", of.display());
        // Remove the record first: without it the file or tree counts for nothing.
        fs::remove_file(&record)?;
        sync_dir(dir)?;
        if of.is_dir() {
            remove_tree(&of)?;
            continue;
        }
        match fs::remove_file(&of) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(e).with_context(|| format!("{}: cannot be removed", of.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Removes a tree. It loses its name at once, before its content is removed.
///
/// # Errors
/// It cannot be renamed or removed.
pub(super) fn remove_tree(path: &Path) -> Result<()> {
    if fs::symlink_metadata(path).is_err() {
        return Ok(());
    }
    let going = path.with_extension("old.new");
    let shown = || format!("{}: cannot be removed", path.display());
    if going.exists() {
        fs::remove_dir_all(&going).with_context(shown)?;
    }
    fs::rename(path, &going).with_context(shown)?;
    fs::remove_dir_all(&going).with_context(shown)
}
