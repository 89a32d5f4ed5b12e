//! Is a published tree still what was published?

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::{FileEntry, Manifest, file_digest};

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
        if found != *want {
            bail!(
                "{}/{}: is not what was published: {} bytes with digest {:.16}…, published were {} bytes with {:.16}…",
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
    let (blake2b, size) = File::options()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&path)
        .and_then(file_digest)
        .with_context(|| format!("{}", path.display()))?;
    Ok(FileEntry { path: relative.to_owned(), size, blake2b })
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
