//! One build at a time, one `prefix provision`, and one late import.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};

use super::{Layout, make_dirs};
use crate::exit::Exit;
use crate::fail;

/// Who holds a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A build for this kernel.
    Build(String),
    /// `prefix shell`, which makes a build tree for this kernel.
    Shell(String),
    /// `prefix provision`.
    Provision,
    /// `load --import`.
    Late,
}

/// As written in the lock file, after the process id.
impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Holder::Build(release) => write!(f, "build {release}"),
            Holder::Shell(release) => write!(f, "shell {release}"),
            Holder::Provision => f.write_str("provision"),
            Holder::Late => f.write_str("load --import"),
        }
    }
}

impl Holder {
    /// Who wrote `text`. An unknown word counts as a build.
    fn read(text: &str) -> Holder {
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        match word {
            "provision" => Holder::Provision,
            "load" => Holder::Late,
            "shell" => Holder::Shell(rest.to_owned()),
            _ => Holder::Build(rest.to_owned()),
        }
    }

    /// What it does, and the options of journalctl(1) that show it.
    fn told(&self) -> (&'static str, &'static str) {
        const BUILDS: &str = "u 'zfs-build*' -u zfs-prefix-provision";
        match self {
            Holder::Build(_) => ("another build is running", BUILDS),
            Holder::Shell(_) => ("a build tree is being made for `prefix shell`", BUILDS),
            Holder::Provision => ("a prefix is being provisioned", BUILDS),
            Holder::Late => ("a late import is running", " -t zfs-prefix"),
        }
    }
}

/// A lock: flock(2) on a file in `/run/zfs-prefix`. It ends with the process, however that ends.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// Takes the build lock without waiting. Writes `holder` into the file, for whoever finds the
    /// lock held.
    ///
    /// # Errors
    /// [`Exit::Locked`] when another process holds it; or the file cannot be made.
    pub fn take(layout: &Layout, holder: &Holder) -> Result<Lock> {
        Lock::at(layout, &layout.lock(), holder)
    }

    /// Takes the lock of `prefix provision`: a download does not keep builds waiting.
    ///
    /// # Errors
    /// As [`Lock::take`].
    pub fn provision(layout: &Layout) -> Result<Lock> {
        Lock::at(layout, &layout.provision_lock(), &Holder::Provision)
    }

    /// Takes the lock of `load --import`: two would undo each other's precautions.
    ///
    /// # Errors
    /// As [`Lock::take`].
    pub fn late(layout: &Layout) -> Result<Lock> {
        Lock::at(layout, &layout.late_lock(), &Holder::Late)
    }

    fn at(layout: &Layout, path: &Path, holder: &Holder) -> Result<Lock> {
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
        let mut text = String::new();
        // Only for the message. If it cannot be read, the message does not name the holder.
        drop(Read::by_ref(&mut file).take(200).read_to_string(&mut text));
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                file.set_len(0)?;
                file.rewind()?;
                writeln!(file, "{} {holder}", std::process::id())?;
                Ok(Lock { _file: file })
            }
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
                let (pid, kind) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
                let (does, journal) = Holder::read(kind).told();
                fail!(
                    Exit::Locked,
                    "{does} (process {pid}, {kind}, from {}); wait for it: journalctl -f{journal}",
                    path.display()
                )
            }
            Err((_, e)) => Err(e).with_context(|| format!("{}: flock", path.display())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_refused_and_told_who_holds_it() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path());
        let build = |release: &str| Lock::take(&layout, &Holder::Build(release.to_owned()));
        let first = build("6.1.0").unwrap();
        let error = build("6.2.0").unwrap_err();
        assert_eq!(crate::exit::of(&error), Exit::Locked);
        let holder = format!("(process {}, build 6.1.0, ", std::process::id());
        assert!(error.to_string().contains(&holder), "{error}");
        assert!(error.to_string().contains("another build is running"), "{error}");
        let provision = Lock::provision(&layout).unwrap();
        let error = Lock::provision(&layout).unwrap_err();
        assert!(error.to_string().contains("a prefix is being provisioned"), "{error}");
        let late = Lock::late(&layout).unwrap();
        let error = Lock::late(&layout).unwrap_err().to_string();
        assert!(error.contains("a late import is running"), "{error}");
        assert!(error.ends_with("journalctl -f -t zfs-prefix"), "{error}");
        for holder in [Holder::Build("6.1".into()), Holder::Shell("6.1".into()), Holder::Late] {
            assert_eq!(Holder::read(&holder.to_string()), holder);
        }
        drop((first, provision, late));
        build("6.2.0").unwrap();
    }
}
