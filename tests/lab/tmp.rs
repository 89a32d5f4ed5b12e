//! Temporary files of a process, below `<lab>/tmp/PID`. A later process removes that directory when
//! its owner has ended, in whatever way. If other users cannot reach the laboratory (root's home is
//! closed), the directory is below /var/tmp: programs that run as other users have to reach it.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};

use super::cache;

/// An empty directory for a test's own files. Drop removes it. It is below the laboratory, so
/// neither the clone nor the machine's /tmp has to be large, or have a particular name.
///
/// # Panics
/// The laboratory cannot be written.
pub fn scratch(prefix: &str) -> tempfile::TempDir {
    dir(prefix).unwrap_or_else(|e| panic!("{e:#}"))
}

/// [`scratch`], for callers that report errors.
///
/// # Errors
/// The laboratory cannot be written.
pub fn dir(prefix: &str) -> Result<tempfile::TempDir> {
    super::times::test();
    let own = own()?;
    let made = tempfile::Builder::new().prefix(prefix).tempdir_in(own);
    made.with_context(|| own.display().to_string())
}

/// This process's directory.
fn own() -> Result<&'static Path> {
    static OWN: OnceLock<std::result::Result<(PathBuf, File), String>> = OnceLock::new();
    match OWN.get_or_init(|| open().map_err(|e| format!("{e:#}"))) {
        Ok((path, _lock)) => Ok(path),
        Err(error) => Err(anyhow::anyhow!("{error}")),
    }
}

/// The directory of all processes' directories. Other users can reach it.
fn base() -> Result<PathBuf> {
    let lab = super::place();
    fs::create_dir_all(&lab).with_context(|| lab.display().to_string())?;
    let open = |dir: &Path| fs::metadata(dir).is_ok_and(|m| m.permissions().mode() & 0o001 != 0);
    let base = if lab.canonicalize()?.ancestors().all(open) {
        lab.join("tmp")
    } else {
        PathBuf::from(format!("/var/tmp/zfs-prefix-lab-{}", nix::unistd::getuid()))
    };
    fs::create_dir_all(&base).with_context(|| base.display().to_string())?;
    let meta = fs::symlink_metadata(&base)?;
    ensure!(
        meta.is_dir() && meta.uid() == nix::unistd::getuid().as_raw(),
        "{} is not a directory of this user: remove it, or set ZFS_PREFIX_LAB",
        base.display()
    );
    Ok(base)
}

fn open() -> Result<(PathBuf, File)> {
    let all = base()?;
    // Only one process at a time makes or removes directories. So none is removed between its
    // creation and its lock.
    let guard = File::create(all.join("lock")).context("tmp/lock")?;
    guard.lock()?;
    for entry in fs::read_dir(&all)? {
        let path = entry?.path();
        if path.is_dir() && lock_of(&path)?.try_lock().is_ok() {
            cache::remove(&path)?;
            cache::remove(&path.with_extension("lock"))?;
        }
    }
    let path = all.join(std::process::id().to_string());
    fs::create_dir_all(&path)?;
    let lock = lock_of(&path)?;
    lock.try_lock().with_context(|| path.display().to_string())?;
    Ok((path, lock))
}

fn lock_of(path: &Path) -> Result<File> {
    let lock = path.with_extension("lock");
    let file = File::options().create(true).truncate(false).write(true).open(&lock);
    file.with_context(|| lock.display().to_string())
}
