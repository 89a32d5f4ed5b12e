//! From root to the prefix's owner, with no way back.
#![allow(unsafe_code, reason = "std and nix know no capabilities")]

use std::ffi::{c_int, c_ulong};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::signal::{SigHandler, SigSet, Signal};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Pid, Uid, getppid, setgroups, setresgid, setresuid};

use super::Account;
use crate::process::leave_keyrings;

/// Becomes `account`: no supplementary group, no capability in any set, no signal blocked or
/// ignored, umask 022. Executing a program gives no capability either (no_new_privs). The process
/// dies when `parent` does, as before.
///
/// # Errors
/// The kernel refuses one of these.
pub fn give_up(account: &Account, parent: Pid) -> Result<()> {
    drop_bounding_set()?;
    setgroups(&[]).context("setgroups(2)")?;
    let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
    setresgid(gid, gid, gid).context("setresgid(2)")?;
    setresuid(uid, uid, uid).context("setresuid(2)")?;
    clear_capabilities().context("capset(2)")?;
    leave_keyrings().context("KEYCTL_JOIN_SESSION_KEYRING")?;
    nix::sys::prctl::set_no_new_privs().context("PR_SET_NO_NEW_PRIVS")?;
    // The change of the user id has reset it (prctl(2)).
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).context("PR_SET_PDEATHSIG")?;
    if getppid() != parent {
        bail!("the process that asked for this is gone");
    }
    for signal in Signal::iterator() {
        // SAFETY: the default action installs no function. SIGKILL and SIGSTOP have no other.
        let _ = unsafe { nix::sys::signal::signal(signal, SigHandler::SigDfl) };
    }
    SigSet::empty().thread_set_mask().context("sigprocmask(2)")?;
    nix::sys::stat::umask(Mode::from_bits_truncate(0o022));
    Ok(())
}

/// Has execve(2) close all descriptors except the standard streams.
///
/// # Errors
/// close_range(2) failed.
pub fn close_descriptors() -> Result<()> {
    let flags = libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: close_range(2) takes no pointers; with this flag it closes nothing before execve(2).
    let done = unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, flags) };
    Errno::result(done).context("close_range(2)").map(drop)
}

fn drop_bounding_set() -> Result<()> {
    let zero: c_ulong = 0;
    for capability in 0..c_ulong::from(u32::BITS * 2) {
        // SAFETY: this prctl(2) takes numbers only.
        let done = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, zero, zero, zero) };
        match Errno::result(done) {
            Ok(_) => {}
            // The first number that is no capability of this kernel (capabilities(7)).
            Err(Errno::EINVAL) if capability > 0 => return Ok(()),
            Err(errno) => return Err(errno).context("PR_CAPBSET_DROP"),
        }
    }
    Ok(())
}

/// Empties the capability sets, with the inheritable one, which a change of user leaves alone. That
/// empties the ambient set as well.
fn clear_capabilities() -> Result<(), Errno> {
    /// _LINUX_CAPABILITY_VERSION_3: two structures of 32 capabilities each.
    #[repr(C)]
    struct Header {
        version: u32,
        pid: c_int,
    }
    let header = Header { version: 0x2008_0522, pid: 0 };
    let none = [0_u32; 6];
    // SAFETY: capset(2) reads the header and, for this version, 24 bytes of data; both outlive it.
    let done = unsafe { libc::syscall(libc::SYS_capset, &raw const header, &raw const none) };
    Errno::result(done).map(drop)
}
