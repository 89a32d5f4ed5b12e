//! One build at a time, one `prefix provision`, and one late import.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};

use super::{Layout, make_dirs};
use crate::exit::Exit;
use crate::fail;

/// A lock, flock(2) on a file in `/run/zfs-prefix`; ends with the process, however it ends.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// Takes the build lock without waiting; `what` is written into the file for whoever finds it
    /// held.
    ///
    /// # Errors
    /// [`Exit::Locked`] when another process holds it; or the file cannot be made.
    pub fn take(layout: &Layout, what: &str) -> Result<Lock> {
        Lock::at(layout, &layout.lock(), what)
    }

    /// Takes the lock of `prefix provision`: a download does not keep builds waiting.
    ///
    /// # Errors
    /// As [`Lock::take`].
    pub fn provision(layout: &Layout, what: &str) -> Result<Lock> {
        Lock::at(layout, &layout.provision_lock(), what)
    }

    /// Takes the lock of `load --import`: two would undo each other's precautions.
    ///
    /// # Errors
    /// As [`Lock::take`].
    pub fn late(layout: &Layout, what: &str) -> Result<Lock> {
        Lock::at(layout, &layout.late_lock(), what)
    }

    fn at(layout: &Layout, path: &Path, what: &str) -> Result<Lock> {
        make_dirs(&layout.run())?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            // Not readable by others: whoever can open it can hold the lock.
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)
            .with_context(|| format!("{}", path.display()))?;
        let mut holder = String::new();
        // Only for the message: what cannot be read is not named.
        drop(Read::by_ref(&mut file).take(200).read_to_string(&mut holder));
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                file.set_len(0)?;
                file.rewind()?;
                writeln!(file, "{} {what}", std::process::id())?;
                Ok(Lock { _file: file })
            }
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => fail!(
                Exit::Locked,
                "{} (process {}, from {}); wait for it: journalctl -f{}",
                holding(&holder).0,
                holder.trim(),
                path.display(),
                holding(&holder).1
            ),
            Err((_, e)) => Err(e).with_context(|| format!("{}: flock", path.display())),
        }
    }
}

/// What a holder does, by what it wrote, and where it tells of it.
fn holding(holder: &str) -> (&'static str, &'static str) {
    const BUILDS: &str = "u 'zfs-build*' -u zfs-prefix-provision";
    match holder {
        _ if holder.contains("prefix provision") => ("a prefix is being provisioned", BUILDS),
        _ if holder.contains("load --import") => ("a late import is running", " -t zfs-prefix"),
        _ => ("another build is running", BUILDS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_refused_and_told_who_holds_it() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path());
        let first = Lock::take(&layout, "6.1.0").unwrap();
        let error = Lock::take(&layout, "6.2.0").unwrap_err();
        assert_eq!(crate::exit::of(&error), Exit::Locked);
        assert!(error.to_string().contains(&format!("{} 6.1.0", std::process::id())), "{error}");
        assert!(error.to_string().contains("another build is running"), "{error}");
        let provision = Lock::provision(&layout, "zfs-prefix prefix provision").unwrap();
        let error = Lock::provision(&layout, "zfs-prefix prefix provision").unwrap_err();
        assert!(error.to_string().contains("a prefix is being provisioned"), "{error}");
        let late = Lock::late(&layout, "zfs-prefix load --import").unwrap();
        let error = Lock::late(&layout, "zfs-prefix load --import").unwrap_err().to_string();
        assert!(error.contains("a late import is running"), "{error}");
        assert!(error.ends_with("journalctl -f -t zfs-prefix"), "{error}");
        drop((first, provision, late));
        Lock::take(&layout, "6.2.0").unwrap();
    }
}
