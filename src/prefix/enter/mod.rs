//! Entering the prefix. Every program of the prefix, in a build or typed by hand, runs in a mount
//! namespace of its own, as the prefix's owner, with an environment that names nothing of the host.
//! Nothing that is found by its path there can be executed, or mapped executable, unless it is the
//! prefix's. That keeps builds hermetic. It is no wall around the owner: an owner with other
//! processes outside reaches the host's mounts and network through them (`/proc/PID/root`,
//! ptrace(2)), with the rights it has out there and no others. No check by root relies on it.
//!
//! This program runs itself again with [`OPTION`]. The new process has one thread. It makes the
//! namespace as root, gives up all rights for good, and executes the wanted program in its place.
//! Process id, session, standard streams and the parent death signal stay what they were.

mod accounts;
mod detach;
pub mod environment;
pub mod kernel;
mod loopback;
mod mounts;
mod namespace;
mod privileges;
mod terminal;

use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

pub use accounts::Account;

use crate::exit::{self, Exit, Failure};
use crate::fail;
use crate::process::Wrapper;

/// The option by which this program asks itself to enter: `--enter SPEC PROGRAM [ARGUMENT…]`. SPEC
/// is a [`Spec`] as JSON. If PROGRAM is empty, entering is only tried. The option is internal: no
/// promise holds for it.
pub const OPTION: &str = "--enter";

/// How a process that could not enter begins its message. What follows is not the program's.
const FAILED: &str = "cannot enter the prefix: ";

/// What a program in the prefix gets of the machine, beside the prefix itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The directory that the prefix is in, if that is not its own path yet: a tree that is checked
    /// before it is put there. In the namespace it is at its own path nevertheless.
    pub tree: Option<PathBuf>,
    /// The prefix cannot be written to: it is only looked at.
    pub read_only: bool,
    /// A directory of the owner's that it may write to, as HOME and TMPDIR. Without one, these are
    /// a private `/tmp`.
    pub work: Option<PathBuf>,
    /// Directories and files that it may execute from and not write to: a kernel build tree.
    pub kernel: Vec<PathBuf>,
    /// Files that can be read in any case, even if they are in the host's `/tmp`, which is hidden.
    pub readable: Vec<PathBuf>,
    /// Programs of that tree that are replaced.
    pub programs: Vec<Replaced>,
    /// Whether it has the machine's network, or an empty one.
    pub network: bool,
}

/// A program that is replaced by another file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replaced {
    /// The program, by its canonical path.
    pub original: PathBuf,
    /// What is found there instead: a file below [`Place::work`].
    pub by: PathBuf,
}

/// Everything that the entering process has to know. The paths may belong to the owner, so the
/// process trusts none of them and checks them again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// EPREFIX.
    pub prefix: PathBuf,
    /// Whom the program runs as.
    pub account: Account,
    /// Its working directory.
    pub dir: PathBuf,
    /// What it gets of the machine.
    pub place: Place,
    /// It shares root's terminal and may not type into it.
    pub terminal: bool,
}

/// How [`Run`](crate::process::Run) runs a program in a prefix.
#[derive(Clone, Debug)]
pub struct Inside {
    /// EPREFIX.
    pub prefix: PathBuf,
    /// Its owner.
    pub account: Account,
    /// What the program gets of the machine.
    pub place: Place,
}

impl Wrapper for Inside {
    fn command(
        &self,
        program: &Path,
        args: &[OsString],
        dir: &Path,
        terminal: bool,
    ) -> Result<Command> {
        let Inside { prefix, account, place } = self.clone();
        let spec = Spec { prefix, account, dir: dir.to_owned(), place, terminal };
        let spec = serde_json::to_string(&spec).context("the prefix and its paths")?;
        // The same program that runs now, even if a newer one was installed meanwhile.
        let mut command = Command::new("/proc/self/exe");
        command.arg(OPTION).arg(spec).arg(program).args(args);
        Ok(command)
    }

    /// The owner could print that line too. It would only gain another message for a failure of its
    /// own.
    fn failure(&self, status: ExitStatus, last: &str) -> Option<Failure> {
        let message = last.strip_prefix(FAILED)?;
        let exit = match status.code()? {
            0 => return None,
            code if code == i32::from(Exit::PrefixIncomplete.code()) => Exit::PrefixIncomplete,
            code if code == i32::from(Exit::NoSpace.code()) => Exit::NoSpace,
            _ => Exit::Other,
        };
        Some(Failure::new(exit, format!("{FAILED}{message}")))
    }
}

/// Enters and becomes the program if `args` ask for that; otherwise returns None. Every program
/// that runs others in the prefix calls this first of all in its `main`.
pub fn main(args: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    let mut args = args.into_iter().skip(1);
    if args.next()? != OPTION {
        return None;
    }
    Some(match enter(args.collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{FAILED}{}", format!("{error:#}").replace('\n', " "));
            exit::of(&error).into()
        }
    })
}

/// Returns only if it failed, or if there is no program to become.
fn enter(args: Vec<OsString>) -> Result<()> {
    let [spec, program, args @ ..] = &args[..] else {
        fail!(Exit::Usage, "{OPTION} is for this program's own use");
    };
    let spec: Spec = spec
        .to_str()
        .context("the specification is not UTF-8")
        .and_then(|text| serde_json::from_str(text).context("the specification"))?;
    // Ask before the rights are given up: that resets the parent death signal.
    let parent = nix::unistd::getppid();
    namespace::make(&spec)?;
    if spec.terminal {
        terminal::refuse_typing()?;
    }
    privileges::give_up(&spec.account, parent)?;
    std::env::set_current_dir(&spec.dir)
        .with_context(|| format!("{} as user {}", spec.dir.display(), spec.account.user))?;
    privileges::close_descriptors()?;
    if program.is_empty() {
        return Ok(());
    }
    Err(not_executed(&spec, program, &Command::new(program).args(args).exec()))
}

fn not_executed(spec: &Spec, program: &OsString, error: &std::io::Error) -> anyhow::Error {
    let program = program.display();
    let prefix = spec.prefix.display();
    let message = match error.kind() {
        ErrorKind::NotFound => format!(
            "{program}: it, or the interpreter it names, is not in the prefix {prefix} (`zfs-prefix prefix audit` says what else is missing)"
        ),
        ErrorKind::PermissionDenied => format!(
            "{program} may not be executed: it is not executable for user {}, or it lies outside the prefix {prefix}, where nothing can be executed",
            spec.account.user
        ),
        _ => format!("{program}: {error}"),
    };
    Failure::new(Exit::PrefixIncomplete, message).into()
}
