//! Entering the prefix. Every program of the prefix, in a build or typed by hand, runs in a mount
//! namespace of its own, as the prefix's owner, with an environment that names nothing of the
//! host. Nothing that is found by its path there can be executed, or mapped executable, unless it
//! is the prefix's. That keeps builds hermetic, and is no wall around the owner: who has other
//! processes outside reaches the host's mounts and network by way of them (`/proc/PID/root`,
//! ptrace(2)), with no rights but those it has out there. No check of root's rests on it.
//!
//! The program runs itself again with [`OPTION`]: the new process has one thread, makes the
//! namespace as root, gives up all rights for good, and executes the program in its place. Process
//! id, session, standard streams and the signal at the parent's death stay what they were.

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

/// The option by which this program asks itself to enter: `--enter SPEC PROGRAM [ARGUMENT…]`, with
/// SPEC a [`Spec`] as JSON; an empty PROGRAM is none: entering is only tried. Internal: no promise
/// holds for it.
pub const OPTION: &str = "--enter";

/// How the message of a process begins that could not enter: what follows is not the program's.
const FAILED: &str = "cannot enter the prefix: ";

/// What a program in the prefix gets of the machine, beside the prefix itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The directory that the prefix is in, when that is not its own path yet: a tree that is looked
    /// at before it is put there. It is found at its path nevertheless.
    pub tree: Option<PathBuf>,
    /// The prefix cannot be written to: it is only looked at.
    pub read_only: bool,
    /// A directory of the owner's that it may write to, HOME and TMPDIR; without one these are a
    /// private `/tmp`.
    pub work: Option<PathBuf>,
    /// Directories and files that it may execute from and not write to: a kernel build tree.
    pub kernel: Vec<PathBuf>,
    /// Files that are there under any circumstances, to be read: the host's `/tmp` is hidden.
    pub readable: Vec<PathBuf>,
    /// Programs of that tree that are replaced.
    pub programs: Vec<Replaced>,
    /// Whether it has the machine's network, or an empty one.
    pub network: bool,
}

/// A program that another file takes the place of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replaced {
    /// The program, by its canonical path.
    pub original: PathBuf,
    /// What is found there instead: a file below [`Place::work`].
    pub by: PathBuf,
}

/// All that the entering process has to know; it trusts none of the paths, which may belong to the
/// owner, and looks at them again.
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
        // The very program that runs, also when a newer one was installed meanwhile.
        let mut command = Command::new("/proc/self/exe");
        command.arg(OPTION).arg(spec).arg(program).args(args);
        Ok(command)
    }

    /// The owner could print that line too, and would gain another message for a failure that is its
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

/// Enters and becomes the program, when `args` ask for that; otherwise none. To be called first of
/// all in the mains of those programs that run others in the prefix.
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

/// Returns when it failed, or there is no program to become.
fn enter(args: Vec<OsString>) -> Result<()> {
    let [spec, program, args @ ..] = &args[..] else {
        fail!(Exit::Usage, "{OPTION} is for this program's own use");
    };
    let spec: Spec = spec
        .to_str()
        .context("the specification is not UTF-8")
        .and_then(|text| serde_json::from_str(text).context("the specification"))?;
    // Known before the rights go, and with them the kernel's promise to end us.
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
            "{program} may not be executed: it is not executable for user {}, or it lies outside the prefix {prefix}, whence nothing can be executed",
            spec.account.user
        ),
        _ => format!("{program}: {error}"),
    };
    Failure::new(Exit::PrefixIncomplete, message).into()
}
