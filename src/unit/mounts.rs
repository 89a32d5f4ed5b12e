//! Which paths are on a pool, as far as /etc says: there is no zfs yet to ask.

use std::path::{Path, PathBuf};

use crate::host::Host;

/// The mount points /etc/fstab and the lists of zfs-mount-generator(8) announce.
pub(super) struct Mounts {
    /// Mount point, and whether it is a file system of ZFS; fstab last, for it wins.
    points: Vec<(PathBuf, bool)>,
}

impl Mounts {
    /// Reads them; what cannot be read announces nothing.
    pub(super) fn read(host: &Host) -> Mounts {
        let mut points = Vec::new();
        let lists = std::fs::read_dir(host.path("/etc/zfs/zfs-list.cache"));
        for list in lists.into_iter().flatten().flatten() {
            points.extend(zfs_list(&text(&list.path())));
        }
        points.extend(fstab(&text(&host.path("/etc/fstab"))));
        Mounts { points }
    }

    /// Whether `path` is below a mount point that is on a pool. The root file system does not
    /// count: it is mounted before anything here could matter.
    pub(super) fn on_pool(&self, path: &Path) -> bool {
        let above = self.points.iter().filter(|(point, _)| path.starts_with(point));
        let nearest = above.max_by_key(|(point, _)| point.components().count());
        nearest.is_some_and(|(point, zfs)| *zfs && point != Path::new("/"))
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

/// A line of `zfs list -H -o name,mountpoint,canmount,…`, as zed keeps it: fields end with tabs.
fn zfs_list(text: &str) -> impl Iterator<Item = (PathBuf, bool)> {
    text.lines().filter_map(|line| {
        let mut fields = line.split('\t');
        let (point, canmount) = (fields.nth(1)?, fields.next()?);
        let mountable = point.starts_with('/') && canmount != "off";
        mountable.then(|| (PathBuf::from(point), true))
    })
}

#[cfg(test)]
mod tests {
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
            let points = zfs_list(list).chain(fstab(table)).collect();
            assert_eq!(Mounts { points }.on_pool(Path::new(VAR)), expected, "{list:?} {table:?}");
        }
        let points = fstab("tank/x /a\\040b zfs").collect();
        assert!(Mounts { points }.on_pool(Path::new("/a b/c")));
    }
}
