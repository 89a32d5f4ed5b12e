//! `zfs-prefix prefix shell`: a person or a script in the prefix, in the same namespace, with the
//! same rights and the same environment as a build.

use std::ffi::OsString;
use std::fs::Permissions;
use std::io::IsTerminal;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};
use tempfile::TempDir;

use crate::builder::{Prepared, prepare_tree, tree_dir};
use crate::config::Settings;
use crate::exit::Exit;
use crate::fail;
use crate::host::{Host, Release};
use crate::kernel::Tree;
use crate::pools::absent::{self, Directory};
use crate::prefix::Prefix;
use crate::prefix::enter::Place;
use crate::prefix::owned::owners_dir;
use crate::process::{Cancel, Run, descendants};
use crate::store::{Layout, make_dirs};

/// How long programs that were started in the shell have to end after it.
const GRACE: Duration = Duration::from_secs(1);

/// What was asked for.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The kernel whose build tree is made ready; the running one if none.
    pub release: Option<Release>,
    /// With the machine's network, or an empty one.
    pub network: bool,
    /// The command and its arguments; an interactive shell if empty.
    pub command: Vec<OsString>,
    /// TERM of the terminal.
    pub term: Option<OsString>,
}

/// Runs a shell or a command in the prefix on this process's own standard streams; the exit status
/// is the command's, 128 + N after signal N.
///
/// # Errors
/// Not root; no prefix; no tree for a kernel that was asked for by name, and none can be made.
pub fn run(host: &Host, settings: &Settings, request: &Request) -> Result<u8> {
    if !nix::unistd::geteuid().is_root() {
        fail!(
            Exit::Other,
            "run this as root: only root can make the namespace that a build runs in. Without one, as the prefix's owner: {}/startprefix",
            settings.prefix.path.display()
        );
    }
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    absent::refuse(host, settings, &[Directory::Prefix, Directory::Cache])?;
    let prefix = Prefix::open(&settings.prefix.path)?;
    let layout = Layout::new(&host.root);
    let scratch = scratch(&layout)?;
    let cancel = watch_signals()?;
    let release = request.release.as_ref().unwrap_or(&host.kernel_release);
    let (tree, mut place) = match Tree::open(&tree_dir(host, settings, release), release) {
        Ok(tree) => {
            let place = prefix.place(&home(&scratch, &prefix)?, &tree, &cancel)?;
            (Some(tree), place)
        }
        Err(error) if request.release.is_some() => {
            let prepared = prepared(host, settings, release, &prefix, &scratch, &error)?;
            (Some(prepared.tree), prepared.place)
        }
        Err(error) => {
            eprintln!(
                "zfs-prefix: KV_OUT_DIR and KERNEL_DIR are not set: {error:#} (--kernel-release {release} makes a build tree)"
            );
            (None, Place { work: Some(home(&scratch, &prefix)?), ..Place::default() })
        }
    };
    place.network = request.network;
    let run = command(&prefix, &place, tree.as_ref(), request);
    say_what_is_special(&prefix, &layout, release, request);
    let status = follow(&run, &cancel)?;
    // The command's status counts. tmpfiles.d removes by age what is left.
    if let Err(error) = scratch.close() {
        eprintln!("zfs-prefix: the scratch directory cannot be removed: {error}");
    }
    Ok(code(status))
}

/// A directory of root's for one shell, removed after it.
fn scratch(layout: &Layout) -> Result<TempDir> {
    let parent = layout.cache().join("shell");
    make_dirs(&parent)?;
    let shown = || format!("{}", parent.display());
    let dir = TempDir::with_prefix_in("", &parent).with_context(shown)?;
    // The prefix's owner has to get through this directory.
    std::fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).with_context(shown)?;
    Ok(dir)
}

/// HOME and TMPDIR, the owner's.
fn home(scratch: &TempDir, prefix: &Prefix) -> Result<PathBuf> {
    let home = scratch.path().join("home");
    owners_dir(&home, prefix.user)?;
    let private = Permissions::from_mode(0o700);
    std::fs::set_permissions(&home, private).with_context(|| format!("{}", home.display()))?;
    Ok(home)
}

/// Makes a tree as for a build, where the system has none. HOME is the directory that it is made
/// in.
fn prepared(
    host: &Host,
    settings: &Settings,
    release: &Release,
    prefix: &Prefix,
    scratch: &TempDir,
    why: &anyhow::Error,
) -> Result<Prepared> {
    eprintln!(
        "zfs-prefix: {why:#}; making a build tree as kernel.tree says; this may take a while"
    );
    // Not the flag of the shell, which leaves the keyboard's signals to its command.
    let cancel = Cancel::default();
    cancel.on_signals(&[libc::SIGTERM, libc::SIGHUP, libc::SIGINT, libc::SIGQUIT])?;
    prepare_tree(host, settings, release, prefix, scratch.path(), &cancel)
}

fn command(prefix: &Prefix, place: &Place, tree: Option<&Tree>, request: &Request) -> Run {
    let run = match &request.command[..] {
        [] if std::io::stdin().is_terminal() => prefix
            .run("bash", place)
            .args(["--noprofile", "--norc", "-i"])
            .env("PS1", r"(prefix $EPREFIX) \w \$ "),
        [] => prefix.run("bash", place).args(["--noprofile", "--norc"]),
        [program, args @ ..] => prefix.run(program, place).args(args),
    };
    let run = match tree {
        Some(tree) => run.env("KV_OUT_DIR", &tree.output).env("KERNEL_DIR", &tree.source),
        None => run,
    };
    match &request.term {
        Some(term) => run.env("TERM", term),
        None => run,
    }
}

/// Prints what a person would stumble over. It goes to stderr: standard output is the command's.
fn say_what_is_special(prefix: &Prefix, layout: &Layout, release: &Release, request: &Request) {
    let link = prefix.path.join("lib/modules").join(release.as_str());
    if std::fs::read_link(&link).is_ok_and(|target| target.starts_with(layout.store())) {
        eprintln!(
            "zfs-prefix: {0} is a link to the published modules, which are root's: before you merge modules for {release} into the prefix by hand, `rm {0}`. The next zfs-build that publishes finds your directory there and leaves it",
            link.display()
        );
    }
    if request.command.is_empty() && std::io::stdin().is_terminal() {
        eprintln!(
            "You are {} in {}. The rest of the machine is read-only, and nothing of it can be executed. What is in $HOME and /tmp ends with this shell.{}",
            prefix.account.user,
            prefix.path.display(),
            if request.network { "" } else { " There is no network." }
        );
    }
}

/// A flag that a signal sets if it ends this program. The command decides about the keyboard's
/// signals.
fn watch_signals() -> Result<Cancel> {
    let cancel = Cancel::default();
    cancel.on_signals(&[libc::SIGTERM, libc::SIGHUP])?;
    for signal in [libc::SIGINT, libc::SIGQUIT] {
        // A handler and not SIG_IGN, which the command would inherit.
        signal_hook::flag::register(signal, Cancel::default().0).context("sigaction")?;
    }
    Ok(cancel)
}

fn follow(run: &Run, cancel: &Cancel) -> Result<ExitStatus> {
    let mut command = run.command(true)?;
    descendants::die_with_parent(&mut command);
    let mut child = command.spawn().with_context(|| run.shown())?;
    let status = wait(&mut child, cancel);
    // Nothing that the command started stays behind, least of all a process that uses this
    // terminal.
    descendants::end_descendants(GRACE);
    take_terminal_back();
    status
}

fn wait(child: &mut Child, cancel: &Cancel) -> Result<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait().context("waiting for the shell")? {
            return Ok(status);
        }
        if cancel.is_set() {
            descendants::end_descendants(GRACE);
            return child.wait().context("waiting for the shell");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A shell that was killed leaves its own process group in the foreground.
fn take_terminal_back() {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return;
    }
    let mut set = SigSet::empty();
    set.add(Signal::SIGTTOU);
    // Best effort: without it the caller's shell does the same for itself.
    let _ = set.thread_block();
    let _ = nix::unistd::tcsetpgrp(stdin, nix::unistd::getpgrp());
    let _ = set.thread_unblock();
}

fn code(status: ExitStatus) -> u8 {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    u8::try_from(code).unwrap_or(Exit::Other.code())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_keeps_its_status_and_a_signal_is_128_and_its_number() {
        for (raw, want) in [(0, 0), (7 << 8, 7), (11 << 8, 11), (9, 137), (15, 143)] {
            assert_eq!(code(ExitStatus::from_raw(raw)), want, "{raw:#x}");
        }
    }
}
