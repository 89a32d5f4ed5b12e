//! The system calls of mount namespaces that work on descriptors instead of paths (open_tree(2),
//! move_mount(2), mount_setattr(2), openat2(2)): what was checked is what gets mounted, whatever
//! the owner of the path does meanwhile.
#![allow(unsafe_code, reason = "neither std nor nix has these calls")]

use std::ffi::{CStr, c_int, c_long, c_uint};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};

use crate::exit::Exit;
use crate::fail;

/// linux/mount.h
const OPEN_TREE_CLONE: c_uint = 1;
const MOVE_MOUNT_F_EMPTY_PATH: c_uint = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: c_uint = 0x40;
/// MOUNT_ATTR_RDONLY: nothing can be written.
pub const READ_ONLY: u64 = 0x1;
/// MOUNT_ATTR_NOSUID: set-user-ID and file capabilities have no effect.
pub const NO_SUID: u64 = 0x2;
/// MOUNT_ATTR_NOEXEC: nothing can be executed, or mapped executable.
pub const NO_EXEC: u64 = 0x8;

/// `struct mount_attr` of mount_setattr(2).
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

/// Opens `path` to mount it, or to mount over it. Follows no link at all.
///
/// # Errors
/// It is not there, or a link is on the way.
pub fn open(path: &Path) -> Result<OwnedFd> {
    resolve(path, ResolveFlag::RESOLVE_NO_SYMLINKS)
}

/// Opens what `path` leads to, through any links but those of /proc.
///
/// # Errors
/// It is not there.
pub fn open_following(path: &Path) -> Result<OwnedFd> {
    resolve(path, ResolveFlag::RESOLVE_NO_MAGICLINKS)
}

fn resolve(path: &Path, links: ResolveFlag) -> Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(links | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(AT_FDCWD, path, how).with_context(|| format!("{}", path.display()))
}

/// Copies what is at `at` and all that is mounted below it. The copy is mounted nowhere yet.
///
/// # Errors
/// The kernel refuses it.
pub fn copy(at: &OwnedFd) -> Result<OwnedFd> {
    let flags = OPEN_TREE_CLONE
        | c_uint::try_from(libc::O_CLOEXEC | libc::AT_EMPTY_PATH | libc::AT_RECURSIVE)?;
    // SAFETY: open_tree(2) reads the path, a C string that lives as long as the program.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, at.as_raw_fd(), c"".as_ptr(), flags) };
    let fd = RawFd::try_from(checked("open_tree", "5.2", fd)?)?;
    // SAFETY: the kernel just made this descriptor; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sets attributes on the mount at `at` and on all below it.
///
/// # Errors
/// The kernel is older than 5.12, or refuses it.
pub fn restrict(at: impl AsFd, path: &CStr, attributes: u64) -> Result<()> {
    let attr = MountAttr { set: attributes, clear: 0, propagation: 0, userns: 0 };
    let flags = c_uint::try_from(libc::AT_EMPTY_PATH | libc::AT_RECURSIVE)?;
    // SAFETY: mount_setattr(2) reads the path, a C string, and the structure of the size that is
    // named; both outlive the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            at.as_fd().as_raw_fd(),
            path.as_ptr(),
            flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    checked("mount_setattr", "5.12", done).map(drop)
}

/// Mounts what [`copy`] returned over `over`.
///
/// # Errors
/// The kernel refuses it.
pub fn attach(mount: &OwnedFd, over: &OwnedFd) -> Result<()> {
    let flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
    let (from, to): (c_int, c_int) = (mount.as_raw_fd(), over.as_raw_fd());
    // SAFETY: move_mount(2) reads the two paths, C strings that live as long as the program.
    let done =
        unsafe { libc::syscall(libc::SYS_move_mount, from, c"".as_ptr(), to, c"".as_ptr(), flags) };
    checked("move_mount", "5.2", done).map(drop)
}

/// The result of a system call. If the call is missing or not permitted, the error says what an
/// operator can do.
fn checked(call: &str, since: &str, result: c_long) -> Result<c_long> {
    match Errno::result(result) {
        Ok(result) => Ok(result),
        Err(Errno::ENOSYS) => fail!(
            Exit::Other,
            "{call}(2): this kernel does not have it (Linux {since} is needed), or a seccomp filter hides it"
        ),
        Err(Errno::EPERM) => fail!(
            Exit::Other,
            "{call}(2): not permitted: root with CAP_SYS_ADMIN is needed, and no seccomp filter against mounting (a container's, or SystemCallFilter= of the unit)"
        ),
        Err(errno) => Err(errno).with_context(|| format!("{call}(2)")),
    }
}
