//! The one table of exit codes, and the error that carries one.

use std::fmt;
use std::process::ExitCode;

/// Exit status of every program of this package; the table of zfs-prefix(8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum Exit {
    /// Done, or nothing to do.
    Done = 0,
    /// Any error without a code of its own.
    Other = 1,
    /// Bad command line.
    Usage = 2,
    /// Nothing is published for this kernel.
    NothingPublished = 3,
    /// No kernel build tree, source, image or configuration.
    NoKernelSource = 10,
    /// The toolchain prefix is missing or incomplete.
    PrefixIncomplete = 11,
    /// No usable Module.symvers.
    NoSymvers = 12,
    /// This ZFS release does not support this kernel.
    KernelUnsupported = 13,
    /// configure, make or emerge failed.
    BuildFailed = 14,
    /// A result was refused by verification.
    Refused = 15,
    /// The kernel's signature policy (lockdown, sig_enforce) refuses the modules.
    SignaturePolicy = 16,
    /// No space left.
    NoSpace = 17,
    /// Another build holds the lock.
    Locked = 18,
    /// Network error.
    Network = 19,
    /// Expected pools are absent, degraded, read-only or locked, or it is not known whether they
    /// are. Or a path that a program has to write to is on a pool that is not there.
    PoolsAbsent = 20,
    /// Not tried: backing off after an earlier failure.
    BackingOff = 21,
}

impl Exit {
    /// The process exit status.
    pub fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for ExitCode {
    fn from(e: Exit) -> Self {
        ExitCode::from(e.code())
    }
}

/// An error with the exit status it asks for. Any code may put it into an [`anyhow::Error`]; [`of`]
/// finds it there.
#[derive(Debug)]
pub struct Failure {
    /// The exit status of the program.
    pub exit: Exit,
    /// The whole message: what was tried, on which path, what was found, what to do.
    pub message: String,
    /// The line of a long message that says enough, if that is not its last line.
    pub line: Option<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl Failure {
    /// A failure with this exit status and message.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Failure { exit, message: message.into(), line: None }
    }

    /// Sets [`Failure::line`].
    #[must_use]
    pub fn said_by(mut self, line: impl Into<String>) -> Self {
        self.line = Some(line.into());
        self
    }
}

/// Gives an error an exit status, unless it carries one already.
pub trait WithExit<T> {
    /// `Err(e)` becomes a [`Failure`] with `exit` and the whole chain of `e` as its message; an
    /// error that already has a status (a [`Failure`], or a full disk) keeps it.
    fn exit(self, exit: Exit) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> WithExit<T> for Result<T, E> {
    fn exit(self, exit: Exit) -> anyhow::Result<T> {
        self.map_err(|e| {
            let e = e.into();
            match of(&e) {
                Exit::Other => Failure::new(exit, format!("{e:#}")).into(),
                _ => e,
            }
        })
    }
}

/// The exit status an error asks for: that of the outermost [`Failure`] in its chain,
/// [`Exit::NoSpace`] for ENOSPC and EDQUOT, otherwise [`Exit::Other`].
pub fn of(error: &anyhow::Error) -> Exit {
    for cause in error.chain() {
        if let Some(f) = cause.downcast_ref::<Failure>() {
            return f.exit;
        }
        if let Some(io) = cause.downcast_ref::<std::io::Error>()
            && matches!(io.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
        {
            return Exit::NoSpace;
        }
        if let Some(errno) = cause.downcast_ref::<nix::errno::Errno>()
            && matches!(errno, nix::errno::Errno::ENOSPC | nix::errno::Errno::EDQUOT)
        {
            return Exit::NoSpace;
        }
    }
    Exit::Other
}

/// One line of the whole message: the one that its [`Failure`] names, or the last.
pub fn line(error: &anyhow::Error) -> String {
    let failures = error.chain().filter_map(|cause| cause.downcast_ref::<Failure>());
    let named = failures.filter_map(|failure| failure.line.clone()).next();
    named.unwrap_or_else(|| {
        let text = format!("{error:#}");
        text.lines().last().unwrap_or_default().trim().to_owned()
    })
}

/// Returns early with a [`Failure`]: `fail!(Exit::NoSpace, "{path}: …")`.
#[macro_export]
macro_rules! fail {
    ($exit:expr, $($arg:tt)*) => {
        return Err($crate::exit::Failure::new($exit, format!($($arg)*)).into())
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn the_outermost_failure_decides_the_status_and_a_full_disk_has_its_own() {
        let inner: anyhow::Result<()> = Err(Failure::new(Exit::Refused, "crc").into());
        let e = inner.context("verifying").unwrap_err();
        assert_eq!(of(&e), Exit::Refused);
        assert_eq!(format!("{e:#}"), "verifying: crc");
        let io: Result<(), _> = Err(std::io::Error::from_raw_os_error(libc::ENOSPC));
        let e = io.context("writing x").exit(Exit::BuildFailed).unwrap_err();
        assert_eq!(of(&e), Exit::NoSpace);
        let plain: anyhow::Result<()> = Err(anyhow::anyhow!("boom"));
        assert_eq!(of(&plain.exit(Exit::BuildFailed).unwrap_err()), Exit::BuildFailed);
    }
}
