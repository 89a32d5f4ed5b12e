//! Is a published tree still what was published?

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::{FileEntry, Layout, Manifest, file_digest, trust};
use crate::host::Release;

/// Checks the directories that lead to the trees of `release`. Each must belong to `owner`, and
/// nobody else may write to it. A directory that does not exist yet is fine.
///
/// # Errors
/// Names the first directory that is not so. No build cures that.
pub fn check_directories(layout: &Layout, release: &Release, owner: u32) -> Result<()> {
    let dirs = [layout.state(), layout.store(), layout.trees(release), layout.current_dir()];
    for dir in dirs.iter().filter(|d| d.symlink_metadata().is_ok()) {
        trust::above(dir, owner)?;
    }
    Ok(())
}

/// Does [`check_tree`] for the published tree `key`, and checks what else the loader asks. The
/// manifest must name the kernel and the key of its directory. Everything in the tree must belong
/// to `owner`, and nobody else may write to it.
///
/// # Errors
/// The first thing that is wrong.
pub fn check_published(
    layout: &Layout,
    release: &Release,
    key: &str,
    owner: u32,
) -> Result<Manifest> {
    fn walk(dir: &Path, owner: u32) -> Result<()> {
        trust::directory(dir, owner)?;
        for entry in fs::read_dir(dir).with_context(|| format!("{}", dir.display()))? {
            let path = entry.with_context(|| format!("{}", dir.display()))?.path();
            if path.symlink_metadata().is_ok_and(|m| m.is_dir()) {
                walk(&path, owner)?
            } else {
                trust::file(&path, owner).map(drop)?
            }
        }
        Ok(())
    }
    let dir = layout.tree(release, key);
    walk(&dir, owner)?;
    let manifest = check_tree(&dir)?;
    if manifest.kernel_release != *release || manifest.key != key {
        bail!(
            "{}/manifest.json: is of kernel {} and key {}, not of the directory it stands in",
            dir.display(),
            manifest.kernel_release,
            manifest.key
        );
    }
    Ok(manifest)
}

/// Reads the manifest of the tree in `dir` and compares every file with it, both ways.
///
/// # Errors
/// No manifest, or the first file that is missing, additional, of another size or digest.
pub fn check_tree(dir: &Path) -> Result<Manifest> {
    let path = dir.join("manifest.json");
    let bytes = fs::read(&path).with_context(|| format!("{}", path.display()))?;
    let manifest = Manifest::parse(&bytes).with_context(|| format!("{}", path.display()))?;
    let mut present: BTreeSet<String> = list_files(dir)?.into_iter().collect();
    present.remove("manifest.json");
    for want in &manifest.files {
        if !present.remove(&want.path) {
            bail!("{}/{}: is missing", dir.display(), want.path);
        }
        let found = entry(dir, &want.path)?;
        if (found.size, &found.blake2b) == (want.size, &want.blake2b) && found != *want {
            let mode = |entry: &FileEntry| if entry.executable { "0755" } else { "0644" };
            bail!(
                "{}/{}: has mode {}, published was {}",
                dir.display(),
                want.path,
                mode(&found),
                mode(want)
            );
        }
        if found != *want {
            bail!(
                "{}/{}: is not what was published: {} bytes with digest {:.16}…, instead of the published {} bytes with {:.16}…",
                dir.display(),
                want.path,
                found.size,
                found.blake2b.as_str(),
                want.size,
                want.blake2b.as_str()
            );
        }
    }
    if let Some(extra) = present.first() {
        bail!("{}/{extra}: was not published", dir.display());
    }
    Ok(manifest)
}

/// The manifest entries of all files below `dir` but `manifest.json`, sorted by path.
///
/// # Errors
/// A file cannot be read, or is not a regular file.
pub fn entries(dir: &Path) -> Result<Vec<FileEntry>> {
    let mut files = list_files(dir)?;
    files.retain(|p| p != "manifest.json");
    files.sort();
    files.iter().map(|p| entry(dir, p)).collect()
}

fn entry(dir: &Path, relative: &str) -> Result<FileEntry> {
    let path = dir.join(relative);
    let shown = || format!("{}", path.display());
    let open = File::options().read(true).custom_flags(libc::O_NOFOLLOW).open(&path);
    let file = open.with_context(shown)?;
    let mode = file.metadata().with_context(shown)?.mode();
    if mode & 0o7000 != 0 {
        bail!("{}: has mode {:04o}: nothing like it was published", path.display(), mode & 0o7777);
    }
    let (blake2b, size) = file_digest(file).with_context(shown)?;
    Ok(FileEntry { path: relative.to_owned(), size, blake2b, executable: mode & 0o111 != 0 })
}

/// All files below `dir`, relative; anything that is neither directory nor regular file is an
/// error, and so is a name that is not UTF-8.
fn list_files(dir: &Path) -> Result<Vec<String>> {
    fn walk(base: &Path, dir: &Path, out: &mut Vec<String>) -> Result<()> {
        for entry in fs::read_dir(dir).with_context(|| format!("{}", dir.display()))? {
            let entry = entry?;
            let path: PathBuf = entry.path();
            let kind = entry.file_type()?;
            if kind.is_dir() {
                walk(base, &path, out)?;
            } else if kind.is_file() {
                let relative = path.strip_prefix(base)?.to_str();
                let relative =
                    relative.with_context(|| format!("{}: not UTF-8", path.display()))?;
                out.push(relative.to_owned());
            } else {
                bail!("{}: neither a regular file nor a directory", path.display());
            }
        }
        Ok(())
    }
    let mut out = Vec::new();
    walk(dir, dir, &mut out)?;
    Ok(out)
}
