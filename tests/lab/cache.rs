//! Artefacts that are made once: `<lab>/<name>-<digest of the inputs>`. An artefact is complete as
//! soon as the name exists. All clones and processes of a user share them. If they are too large
//! together, the least recently used ones are removed.

use std::fs::{self, File, FileTimes, TryLockError};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use super::times::{self, Timed};

/// The size limit of all artefacts together, in GiB, unless `$ZFS_PREFIX_LAB_GIB` is set.
const LIMIT: u64 = 24;

/// The artefact `name` made from `inputs`. `make` gets a path that does not exist, and creates a
/// file or directory there. Other processes wait meanwhile.
///
/// # Errors
/// `make` failed; nothing is left.
pub fn artifact(
    name: &str,
    inputs: &[&[u8]],
    make: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let path = super::dir().join(format!("{name}-{}", digest(inputs)));
    let _lock = lock(name)?;
    if !path.exists() {
        let partial = made(name, make)?;
        fs::rename(&partial, &path).with_context(|| format!("naming {}", path.display()))?;
        weigh(&path)?;
    }
    keep(&path)?;
    Ok(path)
}

/// [`artifact`], but the path is named after the tree itself: names, modes, links and contents. If
/// other inputs give the same tree, artefacts that take the path as an input are not made again.
///
/// # Errors
/// `make` failed, or made something else than a directory.
pub fn tree_artifact(
    name: &str,
    inputs: &[&[u8]],
    make: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let link = super::dir().join(format!("{name}-{}", digest(inputs)));
    let _lock = lock(name)?;
    if !link.exists() {
        let partial = made(name, make)?;
        ensure!(partial.is_dir(), "{name} is no directory");
        let tree = super::dir().join(format!("{name}-tree-{}", digest(&[&tree(&partial)?])));
        if tree.exists() {
            remove(&partial)?;
        } else {
            fs::rename(&partial, &tree).with_context(|| format!("naming {}", tree.display()))?;
            weigh(&tree)?;
        }
        remove(&link)?;
        std::os::unix::fs::symlink(tree.file_name().context("a name")?, &link)?;
    }
    let tree = link.canonicalize()?;
    keep(&tree)?;
    Ok(tree)
}

/// Makes the artefact beside its final place.
fn made(name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let partial = super::dir().join(format!("{name}.partial"));
    remove(&partial)?;
    eprintln!("lab: making {name}");
    let timed = Timed::begin("artefact", name);
    make(&partial).with_context(|| format!("making {name} of the laboratory"))?;
    eprintln!("lab: {name} made in {:.0} s", timed.seconds());
    Ok(partial)
}

/// Holds `<lab>/<name>.lock` until the file is dropped. Waits without a turn ([`times::idle`]).
///
/// # Errors
/// The laboratory cannot be written.
pub fn lock(name: &str) -> Result<File> {
    fs::create_dir_all(super::dir())?;
    let path = super::dir().join(format!("{name}.lock"));
    let file = File::options().create(true).truncate(false).write(true).open(&path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            times::idle(|| file.lock()).with_context(|| format!("locking {}", path.display()))?;
        }
        Err(TryLockError::Error(e)) => return Err(e).context(path.display().to_string()),
    }
    Ok(file)
}

/// Removes a file or a tree. If there is none, that is fine.
///
/// # Errors
/// It cannot be removed.
pub fn remove(path: &Path) -> Result<()> {
    let gone = match fs::symlink_metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Ok(m) if m.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    gone.with_context(|| format!("removing {}", path.display()))
}

/// SHA-256 over every file below `dir`: names, modes, link targets and contents. Not times.
///
/// # Errors
/// Something in it cannot be read.
pub fn tree(dir: &Path) -> Result<[u8; 32]> {
    let mut hash = Sha256::new();
    hash_tree(dir, &mut hash)?;
    Ok(hash.finalize().into())
}

fn hash_tree(dir: &Path, hash: &mut Sha256) -> Result<()> {
    let listing = fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))?;
    let mut entries: Vec<_> = listing.collect::<std::io::Result<_>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (path, kind) = (entry.path(), entry.file_type()?);
        let mode = entry.metadata()?.permissions().mode();
        hash.update(format!("\n{}\n{mode:o}\n", entry.file_name().display()));
        if kind.is_dir() {
            hash_tree(&path, hash)?;
            hash.update("\n..");
        } else if kind.is_symlink() {
            hash.update(fs::read_link(&path)?.as_os_str().as_encoded_bytes());
        } else if kind.is_file() {
            hash_file(&path, hash)?;
        }
    }
    Ok(())
}

fn hash_file(path: &Path, hash: &mut Sha256) -> Result<()> {
    let mut file = File::open(path).with_context(|| path.display().to_string())?;
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer).with_context(|| path.display().to_string())? {
            0 => return Ok(()),
            n => hash.update(&buffer[..n]),
        }
    }
}

fn digest(inputs: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for input in inputs {
        hash.update((input.len() as u64).to_le_bytes());
        hash.update(input);
    }
    hash.finalize()[..8].iter().map(|b| format!("{b:02x}")).collect()
}

/// The file beside an artefact with its size in KiB. Its time is that of the last use, and each
/// user of the artefact holds a shared lock on it.
fn mark(path: &Path) -> PathBuf {
    let mut mark = path.as_os_str().to_owned();
    mark.push(".used");
    PathBuf::from(mark)
}

/// Records the size of a new artefact, and makes room for it.
fn weigh(path: &Path) -> Result<()> {
    let kib = disk_usage(path)?.div_ceil(1024);
    fs::write(mark(path), kib.to_string())?;
    let limit = std::env::var("ZFS_PREFIX_LAB_GIB").ok().and_then(|gib| gib.parse().ok());
    evict(path, limit.unwrap_or(LIMIT) << 20)
}

/// Bytes on disk of a file, or of all files below a directory.
pub(crate) fn disk_usage(path: &Path) -> Result<u64> {
    let meta = fs::symlink_metadata(path)?;
    let mut sum = meta.blocks() * 512;
    if meta.is_dir() {
        for entry in fs::read_dir(path)? {
            sum += disk_usage(&entry?.path())?;
        }
    }
    Ok(sum)
}

/// Removes the least recently used artefacts that nobody uses now, until all fit into `limit` KiB.
fn evict(new: &Path, limit: u64) -> Result<()> {
    let mut all: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
    for entry in fs::read_dir(super::dir())? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "used") {
            let size = fs::read_to_string(&path)?.trim().parse().unwrap_or(0);
            all.push((fs::metadata(&path)?.modified()?, size, path));
        }
    }
    all.sort();
    let mut sum: u64 = all.iter().map(|(_, size, _)| size).sum();
    for (_, size, used) in all {
        if sum <= limit {
            return Ok(());
        }
        let file = File::options().write(true).open(&used)?;
        if used != mark(new) && file.try_lock().is_ok() {
            eprintln!(
                "lab: removing {}: the artefacts take more than {} GiB",
                used.display(),
                limit >> 20
            );
            remove(&used.with_extension(""))?;
            remove(&used)?;
            sum -= size;
        }
    }
    Ok(())
}

/// Keeps the artefact from removal while this process lives.
fn keep(path: &Path) -> Result<()> {
    static KEPT: Mutex<Vec<(PathBuf, File)>> = Mutex::new(Vec::new());
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if kept.iter().all(|(one, _)| one != path) {
        let mark = mark(path);
        let file = File::options().create(true).truncate(false).write(true).open(&mark)?;
        file.lock_shared().with_context(|| mark.display().to_string())?;
        file.set_times(FileTimes::new().set_modified(SystemTime::now()))?;
        kept.push((path.to_owned(), file));
    }
    Ok(())
}
