//! Which paths are on a pool, as far as /etc says: zfs(8) cannot be asked yet.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::problems::Problems;
use super::zfs_list::{Column, List};
use crate::host::{Host, links};

/// These are mounted later, or fill up later. Links that lead there are followed by their text
/// alone.
const LATER: [&str; 2] = ["/var", "/run"];
const FSTAB: &str = "/etc/fstab";
/// Enough for thousands of lines. The limit is there because a generator holds up the whole boot.
const LARGEST: u64 = 1 << 20;

/// A mount point that is announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Point {
    /// Whether it is a file system of ZFS.
    zfs: bool,
    in_fstab: bool,
}

type Points = BTreeMap<PathBuf, Point>;

/// The mount points /etc/fstab and the lists of zfs-mount-generator(8) announce.
pub(super) struct Mounts<'h> {
    host: &'h Host,
    /// Without links in their paths, and without the root's.
    points: Points,
}

impl<'h> Mounts<'h> {
    /// Those of `lists`, and of fstab; what cannot be read announces nothing.
    pub(super) fn read(host: &'h Host, lists: &[List], problems: &mut Problems) -> Mounts<'h> {
        let mut announced = Points::new();
        for path in lists.iter().flat_map(listed) {
            put(&mut announced, path, Point { zfs: true, in_fstab: false });
        }
        for (path, zfs) in fstab(&fstab_text(&host.path(FSTAB), problems)) {
            put(&mut announced, path, Point { zfs, in_fstab: true });
        }
        let mut mounts = Mounts { host, points: Points::new() };
        // In their order: what is above comes before what is below.
        for (path, point) in announced {
            let path = mounts.canonical(&path);
            put(&mut mounts.points, path, point);
        }
        mounts
    }

    /// `path` without links: systemd refuses to mount at a link, or below one. This does not look
    /// into mount points on the way, nor into /var and /run: at boot there is nothing there yet.
    pub(super) fn canonical(&self, path: &Path) -> PathBuf {
        let later = |at: &Path| {
            LATER.iter().any(|later| at.starts_with(later))
                || at.parent().is_some_and(|above| self.points.contains_key(above))
        };
        links::follow(self.host, path, later).path
    }

    /// Whether `path` is below a mount point that is on a pool. Not only the nearest counts, but
    /// also those above it: a unit that needs the path waits for all of them. The root file system
    /// does not count: it is mounted before anything here could matter.
    pub(super) fn on_pool(&self, path: &Path) -> bool {
        let path = self.canonical(path);
        path.ancestors().any(|above| self.points.get(above).is_some_and(|point| point.zfs))
    }

    /// Whether fstab has this very mount point; if so, whether it is a file system of ZFS.
    pub(super) fn in_fstab(&self, point: &Path) -> Option<bool> {
        self.points.get(point).filter(|point| point.in_fstab).map(|point| point.zfs)
    }
}

/// Adds a mount point, but not that of the root. Of two the last counts, and fstab wins.
fn put(points: &mut Points, path: PathBuf, point: Point) {
    let theirs = points.get(&path).is_some_and(|there| there.in_fstab && !point.in_fstab);
    if !theirs && path != Path::new("/") {
        points.insert(path, point);
    }
}

/// The text of fstab: the whole lines of its first [`LARGEST`] bytes.
fn fstab_text(path: &Path, problems: &mut Problems) -> String {
    if !std::fs::metadata(path).is_ok_and(|m| m.is_file()) {
        return String::new();
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path);
    if let Err(e) = file.and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes)) {
        problems.add(format_args!("{FSTAB}: cannot be read: {e}"));
    }
    if bytes.len() as u64 > LARGEST {
        problems.add(format_args!("{FSTAB}: has more than {LARGEST} bytes; the rest is not read"));
        // The last line is not whole.
        let whole = bytes.iter().rposition(|&b| b == b'\n').unwrap_or(0);
        bytes.truncate(whole);
    }
    String::from_utf8_lossy(&bytes).into_owned()
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

/// Where something may be mounted, even if no unit of ours does it: `org.openzfs.systemd:ignore`
/// says nothing about where files are.
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

    /// A machine with this fstab.
    fn machine(root: &Path, fstab: &str) -> Host {
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::write(root.join("etc/fstab"), fstab).unwrap();
        crate::generator::tests::host(root)
    }

    fn read<'h>(host: &'h Host, list: &str) -> (Mounts<'h>, Vec<String>) {
        let mut problems = Problems::default();
        let mounts = Mounts::read(host, &[of("tank", list)], &mut problems);
        (mounts, problems.into_lines())
    }

    #[test]
    fn a_pool_anywhere_above_is_waited_for_and_fstab_has_the_last_word_about_its_mount_points() {
        const VAR: &str = "/var/lib/zfs-prefix";
        let root = tempfile::tempdir().unwrap();
        for (list, table, expected) in [
            ("", "", false),
            ("", "tank/var /var zfs defaults 0 0", true),
            ("", "# tank/var /var zfs", false),
            ("", "/dev/vda /var ext4", false),
            ("", "tank / zfs", false),
            ("", "tank/lib /var/lib zfs\n/dev/vda /var ext4", true),
            // RequiresMountsFor= waits for both.
            ("", "tank/var /var zfs\n/dev/vda /var/lib ext4", true),
            ("tank/var\t/var\ton\ton", "/dev/vda /var/lib/zfs-prefix ext4", true),
            ("", "tank/various /various zfs", false),
            ("tank/var\t/var\ton\ton", "", true),
            ("tank/var\t/var\tnoauto\ton", "", true),
            ("tank/var\t/var\toff\ton", "", false),
            ("tank/var\tlegacy\ton\ton", "", false),
            ("tank\t/\ton\ton", "", false),
            ("tank/var\t/var\ton\ton", "/dev/vda /var ext4", false),
            ("garbage", "garbage", false),
        ] {
            let host = machine(root.path(), table);
            let (mounts, said) = read(&host, list);
            assert_eq!(mounts.on_pool(Path::new(VAR)), expected, "{list:?} {table:?}");
            assert_eq!(said, [""; 0]);
        }
        let host = machine(root.path(), "tank/x /a\\040b zfs");
        let (mounts, _) = read(&host, "");
        assert!(mounts.on_pool(Path::new("/a b/c")));
        assert_eq!(mounts.in_fstab(Path::new("/a b/")), Some(true));
        assert_eq!(mounts.in_fstab(Path::new("/a b/c")), None);
    }

    #[test]
    fn a_path_has_no_links_in_it_and_is_the_same_when_everything_is_mounted() {
        let root = tempfile::tempdir().unwrap();
        let host = machine(root.path(), "tank/srv /srv/data zfs\n/dev/vda /mnt ext4\n");
        for (target, link) in [("var/srv", "srv"), ("/var/home", "home")] {
            std::os::unix::fs::symlink(target, root.path().join(link)).unwrap();
        }
        // What is in a file system that is mounted by now.
        std::fs::create_dir(root.path().join("mnt")).unwrap();
        std::os::unix::fs::symlink("/etc", root.path().join("mnt/link")).unwrap();
        let (mounts, _) = read(&host, "tank/home\t/home\ton\ton");
        for (path, expected) in [
            ("/srv/data", "/var/srv/data"),
            ("/home", "/var/home"),
            ("/mnt/link/x", "/mnt/link/x"),
            ("/etc//x", "/etc/x"),
        ] {
            assert_eq!(mounts.canonical(Path::new(path)), Path::new(expected), "{path}");
        }
        assert_eq!(mounts.in_fstab(Path::new("/var/srv/data")), Some(true));
        assert!(mounts.on_pool(Path::new("/home/core/gentoo")), "by the link");
        assert!(mounts.on_pool(Path::new("/var/home/core/gentoo")), "by the directory");
    }

    #[test]
    fn fstab_is_read_as_far_as_such_a_file_can_reach_and_no_further() {
        let root = tempfile::tempdir().unwrap();
        let line = "# x\n";
        let padding = line.repeat(usize::try_from(LARGEST).unwrap() / line.len());
        let table = format!("tank/a /a zfs\n{padding}tank/b /b zfs\n");
        let host = machine(root.path(), &table);
        let (mounts, said) = read(&host, "");
        assert!(mounts.on_pool(Path::new("/a")) && !mounts.on_pool(Path::new("/b")));
        assert!(said.len() == 1 && said[0].contains("/etc/fstab: has more than"), "{said:?}");
    }
}
