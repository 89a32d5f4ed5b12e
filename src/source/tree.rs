//! Unpacked sources in the cache. Each is a directory of the prefix's owner, in a directory of
//! root's. It gets its name there only when it is complete.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::Obtain;
use super::keep::{keep, remove_tree, used};
use crate::prefix::owned::owners_dir;
use crate::process::Interrupted;
use crate::store::{sync_dir, write_atomic};

/// The directory with what was unpacked. Beside it are files that unpacking needed.
pub(super) const CONTENT: &str = "tree";
/// How many trees are kept: that of the running kernel, of the next, and one more. Each has 1.5 GB.
const KEPT: usize = 3;

/// Whether the tree with this id exists.
///
/// # Errors
/// The cache cannot be made.
pub(super) fn is_there(with: &Obtain<'_>, id: &str) -> Result<bool> {
    Ok(counts(&with.dir("trees")?, id, with.prefix.user.uid))
}

/// Whether a tree counts: it has its name, its record and this owner. A tree that is being removed
/// loses the record first. A tree of another owner belongs to another prefix.
fn counts(trees: &Path, id: &str, owner: u32) -> bool {
    let meta = fs::symlink_metadata(trees.join(id));
    let record = fs::symlink_metadata(trees.join(format!("{id}.json")));
    record.is_ok_and(|r| r.is_file()) && meta.is_ok_and(|m| m.is_dir() && m.uid() == owner)
}

/// The tree with this id. If it does not exist, `make` makes it in an empty directory of the
/// owner's. Returns that directory under its final name.
///
/// # Errors
/// Those of `make`.
pub(super) fn get(
    with: &mut Obtain<'_>,
    id: &str,
    make: impl FnOnce(&mut Obtain<'_>, &Path) -> Result<()>,
) -> Result<PathBuf> {
    let trees = with.dir("trees")?;
    let (path, record) = (trees.join(id), trees.join(format!("{id}.json")));
    if is_there(with, id)? {
        used(&record);
        return Ok(path);
    }
    let new = trees.join(format!("{id}.new"));
    remove_unfinished(&trees)?;
    owners_dir(&new, with.prefix.user)?;
    let made = make(with, &new)
        .and_then(|()| if with.cancel.is_set() { Err(Interrupted.into()) } else { sync(&trees) });
    if made.is_err() {
        // If this fails, only disk space is lost. The next call removes it too.
        fs::remove_dir_all(&new).unwrap_or_else(|e| tracing::warn!("{}: {e}", new.display()));
    }
    made?;
    // What has this name is of another owner, or only half a tree.
    remove_tree(&path)?;
    // Write the record first: without a record nothing would remove the tree one day.
    write_atomic(&record, b"{}")?;
    fs::rename(&new, &path).with_context(|| format!("{}", path.display()))?;
    sync_dir(&trees)?;
    keep(&trees, KEPT, Duration::ZERO, &[record])?;
    Ok(path)
}

fn remove_unfinished(trees: &Path) -> Result<()> {
    for entry in fs::read_dir(trees).with_context(|| format!("{}", trees.display()))? {
        let path = entry?.path();
        let new = path.extension().is_some_and(|end| end == "new");
        // Without a record nothing would ever remove it.
        if new || path.is_dir() && !path.with_extension("json").exists() {
            fs::remove_dir_all(&path)
                .with_context(|| format!("{}: cannot be removed", path.display()))?;
        }
    }
    Ok(())
}

/// Writes everything that was unpacked to disk before it gets its name. So after a loss of power it
/// is complete, or has no name.
fn sync(dir: &Path) -> Result<()> {
    let file = File::open(dir)?;
    nix::unistd::syncfs(&file).with_context(|| format!("syncfs {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_without_a_record_or_of_another_owner_is_no_tree() {
        let dir = tempfile::tempdir().unwrap();
        let me = nix::unistd::geteuid().as_raw();
        fs::create_dir(dir.path().join("id")).unwrap();
        assert!(!counts(dir.path(), "id", me), "the rest of one that was being removed");
        fs::write(dir.path().join("id.json"), "{}").unwrap();
        assert!(counts(dir.path(), "id", me));
        assert!(!counts(dir.path(), "id", me + 1), "another owner's");
        remove_tree(&dir.path().join("id")).unwrap();
        assert!(!counts(dir.path(), "id", me), "removed");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "the record alone");
    }
}
