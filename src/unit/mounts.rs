//! Which paths are on a pool, as far as /etc says: there is no zfs yet to ask.

use std::path::{Path, PathBuf};

use super::zfs_list::{Column, List};
use crate::host::Host;

/// The mount points /etc/fstab and the lists of zfs-mount-generator(8) announce.
pub(super) struct Mounts {
    listed: Vec<PathBuf>,
    /// Mount point, and whether it is a file system of ZFS.
    fstab: Vec<(PathBuf, bool)>,
}

impl Mounts {
    /// Those of `lists`, and of fstab; what cannot be read announces nothing.
    pub(super) fn read(host: &Host, lists: &[List]) -> Mounts {
        let listed = lists.iter().flat_map(listed).collect();
        Mounts { listed, fstab: fstab(&text(&host.path("/etc/fstab"))).collect() }
    }

    /// Whether `path` is below a mount point that is on a pool. The root file system does not
    /// count: it is mounted before anything here could matter.
    pub(super) fn on_pool(&self, path: &Path) -> bool {
        let listed = self.listed.iter().map(|point| (point, true));
        // fstab last: of two at one place the last counts, and fstab wins.
        let points = listed.chain(self.fstab.iter().map(|(point, zfs)| (point, *zfs)));
        let above = points.filter(|(point, _)| path.starts_with(point));
        let nearest = above.max_by_key(|(point, _)| point.components().count());
        nearest.is_some_and(|(point, zfs)| zfs && point != Path::new("/"))
    }

    /// Whether fstab has something for this very mount point; if so, whether it is a file system of ZFS.
    pub(super) fn in_fstab(&self, point: &Path) -> Option<bool> {
        self.fstab.iter().find(|(there, _)| there == point).map(|(_, zfs)| *zfs)
    }
}

fn text(path: &Path) -> String {
    if !std::fs::metadata(path).is_ok_and(|m| m.is_file()) {
        return String::new();
    }
    std::fs::read(path).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
}

/// fstab(5): device, mount point, type, …; white space in a mount point is written in octal.
fn fstab(text: &str) -> impl Iterator<Item = (PathBuf, bool)> {
    text.lines().filter(|line| !line.trim_start().starts_with('#')).filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (point, kind) = (fields.nth(1)?, fields.next()?);
        let point = point.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\");
        point.starts_with('/').then(|| (PathBuf::from(point), kind == "zfs"))
    })
}

/// What may be mounted, also if it is not by a unit of ours: `org.openzfs.systemd:ignore` is no word
/// about where files are.
fn listed(list: &List) -> impl Iterator<Item = PathBuf> {
    list.lines().filter_map(|(_, line)| {
        let line = line.ok()?;
        let (point, canmount) = (line.get(Column::Mountpoint)?, line.get(Column::Canmount)?);
        (point.starts_with('/') && canmount != "off").then(|| PathBuf::from(point))
    })
}

#[cfg(test)]
mod tests {
    use super::super::zfs_list::tests::of;
    use super::*;

    #[test]
    fn the_nearest_announced_mount_point_decides() {
        const VAR: &str = "/var/lib/zfs-prefix";
        for (list, table, expected) in [
            ("", "", false),
            ("", "tank/var /var zfs defaults 0 0", true),
            ("", "# tank/var /var zfs", false),
            ("", "/dev/vda /var ext4", false),
            ("", "tank / zfs", false),
            ("", "tank/lib /var/lib zfs\n/dev/vda /var ext4", true),
            ("", "tank/var /var zfs\n/dev/vda /var/lib ext4", false),
            ("", "tank/various /various zfs", false),
            ("tank/var\t/var\ton\ton", "", true),
            ("tank/var\t/var\tnoauto\ton", "", true),
            ("tank/var\t/var\toff\ton", "", false),
            ("tank/var\tlegacy\ton\ton", "", false),
            ("tank\t/\ton\ton", "", false),
            ("tank/var\t/var\ton\ton", "/dev/vda /var ext4", false),
            ("garbage", "garbage", false),
        ] {
            let listed = listed(&of("tank", list)).collect();
            let mounts = Mounts { listed, fstab: fstab(table).collect() };
            assert_eq!(mounts.on_pool(Path::new(VAR)), expected, "{list:?} {table:?}");
        }
        let fstab = fstab("tank/x /a\\040b zfs").collect();
        let mounts = Mounts { listed: Vec::new(), fstab };
        assert!(mounts.on_pool(Path::new("/a b/c")));
        assert_eq!(mounts.in_fstab(Path::new("/a b/")), Some(true));
        assert_eq!(mounts.in_fstab(Path::new("/a b/c")), None);
    }
}
