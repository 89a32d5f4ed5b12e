//! The same packages give the same tree: modes and times made equal, a digest over all of it, and
//! the archive with its manifest.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use blake2::Blake2b512;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::packages::Package;
use super::tool::run;
use super::tree::Tree;

/// Modes as a user's own files have them, nothing setuid; no empty leftovers of packages.
///
/// # Errors
/// The tree cannot be changed.
pub fn normalise(tree: &Tree) -> Result<()> {
    run(Command::new("chmod").args(["-R", "u+rwX,go+rX,go-w,a-st"]).arg(&tree.dir))?;
    Ok(())
}

/// The newest time of a file as its package has it: the time of everything in the archive.
///
/// # Errors
/// The tree cannot be read.
pub fn newest(tree: &Tree) -> Result<i64> {
    let mut newest = 0;
    for file in tree.files(false)? {
        newest = newest.max(fs::metadata(&file)?.mtime());
    }
    Ok(newest)
}

/// BLAKE2b-512 over the sorted list of files and symlinks below the tree with kind, mode, and
/// content or link target; of directories only those count that something is in.
///
/// # Errors
/// The tree cannot be read.
pub fn digest(tree: &Tree) -> Result<String> {
    let mut entries: Vec<(PathBuf, bool)> =
        tree.files(false)?.into_iter().map(|f| (f, false)).collect();
    entries.extend(tree.files(true)?.into_iter().map(|f| (f, true)));
    entries.sort();
    let mut all = Blake2b512::new();
    all.update(tree.eprefix.as_bytes());
    for (path, link) in entries {
        let name = path.strip_prefix(&tree.dir)?.to_string_lossy().into_owned();
        let (what, content) = if link {
            ("link".to_owned(), fs::read_link(&path)?.to_string_lossy().into_owned())
        } else {
            let mode = fs::metadata(&path)?.permissions().mode() & 0o7777;
            let content = Blake2b512::digest(fs::read(&path)?);
            (format!("file {mode:04o}"), format!("{content:x}"))
        };
        all.update(format!("\n{what} {name} {content}").as_bytes());
    }
    Ok(format!("{:x}", all.finalize()))
}

/// Writes `prefix-<digest>.tar.zst` and `prefix-<digest>.json` into `to`; the archive's path.
///
/// # Errors
/// tar or zstd failed.
pub fn archive(
    tree: &Tree,
    digest: &str,
    time: i64,
    packages: &[Package],
    to: &Path,
) -> Result<PathBuf> {
    let name = format!("prefix-{}", &digest[..16]);
    let file = to.join(format!("{name}.tar.zst"));
    run(Command::new("tar")
        .args([
            "--create",
            "--sort=name",
            "--format=gnu",
            "--owner=0",
            "--group=0",
            "--numeric-owner",
        ])
        .arg(format!("--mtime=@{time}"))
        // More than one thread gives other bytes than one, however many: always two.
        .args(["--use-compress-program=zstd -q -T2 -12", "--file"])
        .arg(&file)
        .arg("-C")
        .arg(&tree.dir)
        .arg("."))?;
    let manifest = json!({
        "version": 1,
        "eprefix": tree.eprefix,
        "digest": digest,
        "archive": {
            "name": file.file_name().context("the archive has a name")?.to_string_lossy(),
            "size": fs::metadata(&file)?.len(),
            "sha256": sha256(&file)?,
        },
        "packages": packages.iter().map(|p| &p.id).collect::<Vec<_>>(),
    });
    fs::write(to.join(format!("{name}.json")), format!("{manifest:#}\n"))?;
    Ok(file)
}

fn sha256(path: &Path) -> Result<String> {
    let mut file = fs::File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect());
        }
        hash.update(&buffer[..n]);
    }
}
