//! The kernel's keyrings of a child.
#![allow(unsafe_code, reason = "nix knows no keyrings")]

use nix::errno::Errno;

/// Joins a new, empty session keyring. The caller's keyring survives the change of user and
/// execve(2). Whoever has it can read the keys that it links to (keyrings(7)), such as root's
/// passphrases. Async-signal-safe.
///
/// # Errors
/// The kernel has keyrings but gives no new one: the user's quota is used up (EDQUOT).
pub fn leave_keyrings() -> Result<(), Errno> {
    let name: *const libc::c_char = std::ptr::null();
    // SAFETY: keyctl(2) takes a null name as the request for an anonymous keyring.
    let done = unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, name) };
    match Errno::result(done) {
        // The kernel has no keyrings, or the filter of a container refuses all calls about them.
        Ok(_) | Err(Errno::ENOSYS | Errno::EPERM) => Ok(()),
        Err(errno) => Err(errno),
    }
}
