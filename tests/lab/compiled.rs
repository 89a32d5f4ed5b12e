//! cargo's build directory for all clones, `<lab>/cargo` (`CARGO_BUILD_BUILD_DIR` in the Makefile).

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::cache::{disk_usage, remove};

/// Its size limit, in GiB.
const LIMIT: u64 = 10;

/// Empties the directory if it is too large, profile by profile. Profiles that a running cargo has
/// locked stay. Everything else goes: removed clones leave their own crates there, and nothing
/// records when a dependency was last used.
///
/// # Errors
/// Something cannot be read or removed.
pub fn bound() -> Result<()> {
    let dir = super::place().join("cargo");
    if !dir.exists() || disk_usage(&dir)? >> 30 < LIMIT {
        return Ok(());
    }
    for profile in profiles(&dir)? {
        empty(&profile)?;
    }
    Ok(())
}

/// The directories that cargo locks: those of the profiles, also below a target.
fn profiles(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        if path.join(LOCK).exists() {
            found.push(path);
        } else if path.is_dir() {
            found.extend(profiles(&path)?);
        }
    }
    Ok(found)
}

const LOCK: &str = ".cargo-lock";

fn empty(profile: &Path) -> Result<()> {
    let lock = File::options().write(true).open(profile.join(LOCK))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(()),
        Err(TryLockError::Error(e)) => return Err(e).context(profile.display().to_string()),
    }
    eprintln!(
        "lab: emptying {}: cargo's build directory has more than {LIMIT} GiB",
        profile.display()
    );
    for entry in fs::read_dir(profile)? {
        let entry = entry?;
        if entry.file_name() != LOCK {
            remove(&entry.path())?;
        }
    }
    Ok(())
}
