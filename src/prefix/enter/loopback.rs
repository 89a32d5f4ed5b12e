//! The loopback device of an empty network namespace.
#![allow(unsafe_code, reason = "nix does not have these requests of netdevice(7)")]

use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// Brings `lo` up, so that a test of a build may talk to itself. This is not possible without
/// CAP_NET_ADMIN (systemd-nspawn takes it). Then there is no network at all, which is as good.
pub(super) fn up() {
    let flags = SockFlag::SOCK_CLOEXEC;
    let Ok(socket) = socket(AddressFamily::Inet, SockType::Datagram, flags, None) else { return };
    // SAFETY: all zeros is a valid ifreq: numbers and a character array.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(c"lo".to_bytes()) {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_UP).unwrap_or(1);
    // SAFETY: SIOCSIFFLAGS reads an ifreq, which outlives the call.
    unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) };
}
