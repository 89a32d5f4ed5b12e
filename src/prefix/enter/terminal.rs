//! A shell of the prefix's owner on root's own terminal. It may write there, but it may not put in
//! characters as if root had typed them (TIOCSTI of ioctl_tty(2)).
#![allow(unsafe_code, reason = "a filter is handed to prctl(2) by its address")]

use anyhow::{Context, Result};
use nix::errno::Errno;

/// The architecture whose system call numbers the filter knows (linux/audit.h). The filter refuses
/// all calls of any other kind (32-bit programs).
const NATIVE: u32 = if cfg!(target_arch = "aarch64") { 0xC000_00B7 } else { 0xC000_003E };
/// This bit is set in the numbers of x32, the third kind on x86-64.
const X32: u32 = 0x4000_0000;
/// Offsets into `struct seccomp_data`. REQUEST is the half of the second argument that ioctl(2)
/// looks at.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const REQUEST: u32 = if cfg!(target_endian = "little") { 24 } else { 28 };

/// Forbids this process and all it starts the requests that put characters into a terminal's input
/// (TIOCSTI, and TIOCLINUX's paste). They fail with EPERM.
///
/// # Errors
/// The kernel has no seccomp filters.
pub(super) fn refuse_typing() -> Result<()> {
    let filter = filter();
    let program =
        libc::sock_fprog { len: u16::try_from(filter.len())?, filter: filter.as_ptr().cast_mut() };
    // SAFETY: the kernel reads `len` instructions at `filter`, which outlives the call, and
    // writes nothing.
    let done =
        unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    Errno::result(done)
        .context("PR_SET_SECCOMP: this kernel has no CONFIG_SECCOMP_FILTER")
        .map(drop)
}

fn filter() -> [libc::sock_filter; 11] {
    let refuse = |errno: i32| {
        let errno = u32::from_ne_bytes(errno.to_ne_bytes());
        instruction(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | errno, 0, 0)
    };
    let load = |offset| instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset, 0, 0);
    // Jumps over `yes` instructions if equal, otherwise over `no`.
    let equal = |k, yes, no| instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, k, yes, no);
    let ioctl = u32::try_from(libc::SYS_ioctl).unwrap_or(u32::MAX);
    // The width of the requests' type differs between C libraries.
    #[allow(clippy::cast_possible_truncation, clippy::unnecessary_cast)]
    let (sti, console) = (libc::TIOCSTI as u32, libc::TIOCLINUX as u32);
    [
        load(ARCHITECTURE),
        equal(NATIVE, 0, 8),
        load(NUMBER),
        instruction(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, X32, 6, 0),
        equal(ioctl, 0, 3),
        load(REQUEST),
        equal(sti, 2, 0),
        equal(console, 1, 0),
        instruction(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0),
        refuse(libc::EPERM),
        refuse(libc::ENOSYS),
    ]
}

fn instruction(code: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code: u16::try_from(code).unwrap_or(0), jt, jf, k }
}
