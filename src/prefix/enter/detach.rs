//! Detaches mounts from the mount namespace. The namespace holds each file system that is mounted
//! in it. If one is unmounted outside, it would stay in use for as long as a build or a shell
//! lives. `zpool export` or `cryptsetup close` would find it busy, with no user in sight.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, umount2};

use crate::host::mountinfo;

/// These stay, with everything that is mounted below: the system itself, its devices, and what a
/// container's manager has hidden there.
const SYSTEM: [&str; 5] = ["/usr", "/etc", "/proc", "/sys", "/dev"];
/// The message queues of the host's IPC namespace, which is not ours.
const QUEUES: &str = "/dev/mqueue";

/// Detaches every mount that is neither the system's nor on the way to one of `needed`. The paths
/// of `needed` are canonical.
///
/// # Errors
/// There is no /proc.
pub(super) fn detach(needed: &[PathBuf]) -> Result<()> {
    let table = "/proc/self/mountinfo";
    let table = fs::read(table).context(table)?;
    // Later mounts first: they may be inside, or upon, earlier ones.
    let mounts = mountinfo::read(&table);
    let points = mounts.iter().rev().map(|mount| &mount.place);
    for point in points.filter(|point| !stays(point, needed)) {
        // An error does not matter. A mount may have gone with the mount it was in. One that may
        // not go (locked, in a container) only hinders whoever wants to unmount it.
        let _ = umount2(point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
    }
    Ok(())
}

fn stays(point: &Path, needed: &[PathBuf]) -> bool {
    let system = SYSTEM.iter().any(|dir| point.starts_with(dir));
    (system && point != Path::new(QUEUES)) || needed.iter().any(|path| path.starts_with(point))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_is_the_system_and_the_way_to_what_is_needed() {
        let needed = ["/home/core/gentoo", "/var/cache/zfs-prefix/build/6.1"].map(PathBuf::from);
        for (point, expected) in [
            ("/", true),
            ("/home", true),
            ("/home/core/gentoo", true),
            ("/home/alice", false),
            ("/home/core/gentoo2", false),
            ("/var", true),
            ("/var/lib/docker", false),
            ("/var/cache/zfs-prefix", true),
            ("/tank", false),
            ("/usr/local", true),
            ("/usrx", false),
            ("/dev/pts", true),
            ("/dev/mqueue", false),
            ("/proc/sys/fs/binfmt_misc", true),
            ("/run/media/core/usb stick", false),
        ] {
            assert_eq!(stays(Path::new(point), &needed), expected, "{point}");
        }
    }
}
