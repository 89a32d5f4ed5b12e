//! The descendants of this process. A build forks thousands of processes, also into new process
//! groups and sessions. None of them may outlive the builder.

use std::os::unix::process::CommandExt;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::table;

/// How long processes have between SIGTERM and SIGKILL.
pub const GRACE: Duration = Duration::from_secs(3);

/// Makes this process adopt its orphaned descendants (PR_SET_CHILD_SUBREAPER, prctl(2)), so that
/// [`end_descendants`] finds them all.
///
/// # Errors
/// prctl(2) failed.
pub fn adopt_orphans() -> std::io::Result<()> {
    nix::sys::prctl::set_child_subreaper(true).map_err(Into::into)
}

/// Puts the child into a new session, so that it has no terminal of root's to write into (TIOCSTI).
/// Gives it a new session keyring. The kernel ends the child when this process dies, whatever the
/// cause (PR_SET_PDEATHSIG).
#[allow(unsafe_code)]
pub fn detach(command: &mut std::process::Command) {
    // SAFETY: between fork and exec only setsid(2), keyctl(2) and prctl(2) are called, all
    // async-signal-safe. std runs this after it changed the user id. A later change would reset the
    // setting.
    unsafe {
        command.pre_exec(|| {
            nix::unistd::setsid()?;
            super::leave_keyrings()?;
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(std::io::Error::from)
        });
    }
}

/// As [`detach`], but on the same terminal.
#[allow(unsafe_code)]
pub fn die_with_parent(command: &mut std::process::Command) {
    // SAFETY: between fork and exec only prctl(2) is called, which is async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(std::io::Error::from)
        });
    }
}

/// Ends every descendant of this process: SIGTERM, and after `grace` SIGKILL until none is left.
/// Descendants are found by their parents in /proc, so that new sessions do not hide them.
pub fn end_descendants(grace: Duration) {
    let begin = Instant::now();
    let mut asked = false;
    // Bounded: a process in uninterruptible sleep is left to the service manager.
    while begin.elapsed() < grace + Duration::from_secs(5) {
        let pids = descendants(std::process::id());
        if pids.is_empty() {
            return;
        }
        let signal = if begin.elapsed() < grace { Signal::SIGTERM } else { Signal::SIGKILL };
        if !asked || signal == Signal::SIGKILL {
            for pid in pids {
                // ESRCH: it ended meanwhile.
                let _ = kill(Pid::from_raw(pid), signal);
            }
            asked = true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// All living descendants of `root`. Zombies do not count: whoever waits for a child collects its
/// status.
fn descendants(root: u32) -> Vec<i32> {
    let mut table = table::all();
    table.retain(|process| !process.ended);
    table::below(root, &table).iter().map(|process| process.pid).collect()
}
