//! Child processes with a clean environment, their own session and another user. Their output goes
//! to a sink line by line. On cancellation, the whole tree of processes is ended.

pub mod cpu;
pub mod descendants;
mod follow;
mod keyring;
mod run;
mod table;

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

pub(crate) use keyring::leave_keyrings;
pub use run::{Run, idle_for, no_space};

use crate::exit::Failure;

/// SIGTERM and SIGINT set this flag. Whoever waits then gives up, and also when its time is over.
#[derive(Clone, Debug, Default)]
pub struct Cancel(pub Arc<AtomicBool>, Option<Instant>);

impl Cancel {
    /// One that is set after `time`, for a command that must not take longer.
    pub fn after(time: Duration) -> Cancel {
        Cancel::default().within(time)
    }

    /// The same flag, and set after `time`, too.
    #[must_use]
    pub fn within(&self, time: Duration) -> Cancel {
        Cancel(self.0.clone(), Instant::now().checked_add(time))
    }

    /// Lets each of `signals` set the flag. From now on this process adopts what its children leave
    /// behind, and so finds it among its descendants to end it.
    ///
    /// # Errors
    /// sigaction(2) or prctl(2) failed.
    pub fn on_signals(&self, signals: &[libc::c_int]) -> Result<()> {
        for signal in signals {
            signal_hook::flag::register(*signal, self.0.clone()).context("sigaction")?;
        }
        descendants::adopt_orphans().context("prctl(PR_SET_CHILD_SUBREAPER)")
    }

    /// Whether somebody asked to stop, or the time is over.
    pub fn is_set(&self) -> bool {
        self.is_signalled() || self.1.is_some_and(|end| Instant::now() >= end)
    }

    /// Whether somebody asked to stop.
    pub fn is_signalled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// SIGTERM or SIGINT ended the work; its inputs did not fail.
#[derive(Debug)]
pub struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the build was stopped by a signal; nothing was published")
    }
}

impl std::error::Error for Interrupted {}

/// A program that prepares what a command needs (a namespace, another user) and then becomes it.
pub trait Wrapper: fmt::Debug + Send + Sync {
    /// The command that becomes `program` with `args` in `dir`. The caller sets its environment and
    /// its standard streams. `terminal`: these streams are root's terminal.
    ///
    /// # Errors
    /// A path cannot be handed on.
    fn command(
        &self,
        program: &Path,
        args: &[OsString],
        dir: &Path,
        terminal: bool,
    ) -> Result<Command>;

    /// Why the wrapper could not become the program, from its status and its last line. None if it
    /// did.
    fn failure(&self, status: ExitStatus, last: &str) -> Option<Failure>;
}

/// Whom a command runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id; no supplementary groups.
    pub gid: u32,
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    /// Its status.
    pub status: ExitStatus,
    /// The last lines of its output, standard output and standard error together.
    pub tail: VecDeque<String>,
    /// It was ended because of [`Cancel`].
    pub cancelled: bool,
    /// It was ended because it neither said nor did anything for too long ([`Run::idle`]).
    pub stalled: bool,
    /// It was ended because it went beyond another limit.
    pub beyond: Option<Beyond>,
    wrapper: Option<Arc<dyn Wrapper>>,
}

impl Ended {
    /// Why its wrapper could not start it, if that is how it ended.
    pub fn not_begun(&self) -> Option<Failure> {
        self.wrapper.as_ref()?.failure(self.status, self.tail.back()?)
    }
}

/// A limit that a command went beyond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beyond {
    /// Of time ([`Run::within`]).
    Time,
    /// Of time without output ([`Run::output`]), whatever it computed.
    Silence,
    /// Of output that is collected ([`Run::output`]).
    Output,
}

/// How a process ended, in words.
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(9)) => "killed by signal 9 (out of memory? see journalctl -k)".to_owned(),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => status.to_string(),
    }
}
