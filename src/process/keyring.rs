//! The kernel's keyrings of a child.
#![allow(unsafe_code, reason = "nix knows no keyrings")]

use nix::errno::Errno;

/// Goes on with an empty session keyring: the caller's outlives the change of user and execve(2),
/// and who has it can read what it links to (keyrings(7)), such as root's passphrases.
/// Async-signal-safe.
///
/// # Errors
/// There are keyrings, and the kernel gives no new one: the user's quota (EDQUOT).
pub fn leave_keyrings() -> Result<(), Errno> {
    let name: *const libc::c_char = std::ptr::null();
    // SAFETY: keyctl(2) takes no name as one for an anonymous keyring.
    let done = unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, name) };
    match Errno::result(done) {
        // A kernel without keyrings; a container's filter, which refuses all calls about them.
        Ok(_) | Err(Errno::ENOSYS | Errno::EPERM) => Ok(()),
        Err(errno) => Err(errno),
    }
}
