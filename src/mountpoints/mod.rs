//! Mount points that files announce before anything is mounted: /etc/fstab, and the lists of
//! zfs-mount-generator(8). zfs(8) cannot be asked yet.

pub(crate) mod budget;
pub(crate) mod fstab;
pub(crate) mod list;
pub(crate) mod problems;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::host::files::Files;
use crate::host::links;
use crate::systemd::name::LONGEST;
use budget::Budget;
use fstab::Entry;
use list::List;
use problems::Problems;

/// These are mounted later, or fill up later. Links that lead there are followed by their text
/// alone.
const LATER: [&str; 2] = ["/var", "/run"];

/// Has a directory for each imported pool, if the module is loaded.
pub(crate) const IMPORTED: &str = "/proc/spl/kstat/zfs";

/// What the files say.
#[derive(Debug, Default)]
pub(crate) struct Announced {
    /// The lists, in the order of their names.
    pub(crate) lists: Vec<List>,
    /// Why a list was not read. There may be any mount point then.
    pub(crate) unread: Option<String>,
    pub(crate) fstab: Vec<Entry>,
    /// Pools that are known by name. One without a list is taken to be mounted at `/POOL`.
    pub(crate) pools: Vec<String>,
}

impl Announced {
    /// Reads `files`. What cannot be read is reported, and announces nothing.
    pub(crate) fn read(files: Files<'_>, problems: &mut Problems) -> Announced {
        let (lists, unread) = list::read(files, problems);
        Announced { lists, unread, fstab: fstab::read(files, problems), pools: Vec::new() }
    }
}

/// A mount point that is announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Point<'a> {
    /// The dataset, if it is a file system of ZFS.
    dataset: Option<&'a str>,
    in_fstab: bool,
    /// It is mounted whenever it can be: nobody says `noauto`, and it is no guess.
    always: bool,
}

/// Mount points by their paths, in the order of these: what is above comes before what is below.
#[derive(Default)]
struct Points<'a> {
    all: Vec<Point<'a>>,
    /// Which of them counts. The generator has code for maps of this type anyway.
    at: BTreeMap<String, Vec<usize>>,
}

impl<'a> Points<'a> {
    fn get(&self, path: &Path) -> Option<&Point<'a>> {
        let at = self.at.get(path.to_str()?)?.last()?;
        self.all.get(*at)
    }

    /// Adds a mount point, but not that of the root. Of two the last counts, and fstab wins.
    fn put(&mut self, path: &Path, point: Point<'a>) {
        let path = simple(path);
        if *path == *Path::new("/") {
            return;
        }
        let at = self.at.entry(path.to_string_lossy().into_owned()).or_default();
        let there = at.last().and_then(|at| self.all.get(*at));
        if !there.is_some_and(|there| there.in_fstab && !point.in_fstab) {
            at.push(self.all.len());
            self.all.push(point);
        }
    }
}

/// The mount points that are announced.
pub(crate) struct Mounts<'a> {
    files: Files<'a>,
    /// Without links in their paths, and without the root's.
    points: Points<'a>,
    unread: Option<&'a str>,
}

/// A mount point above a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Above<'a> {
    pub(crate) point: PathBuf,
    pub(crate) dataset: &'a str,
    /// It is mounted whenever it can be.
    pub(crate) always: bool,
}

/// Why a path is taken to be on a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnPool<'a> {
    /// This dataset will be mounted above it.
    Dataset(&'a str),
    /// A list was not read, for this reason.
    Unread(&'a str),
}

impl<'a> Mounts<'a> {
    /// Those of `announced`.
    pub(crate) fn of(files: Files<'a>, announced: &'a Announced) -> Mounts<'a> {
        let mut points = Points::default();
        let has_list = |pool: &String| announced.lists.iter().any(|list| list.name == *pool);
        for pool in announced.pools.iter().filter(|pool| !has_list(pool)) {
            let point = Point { dataset: Some(pool), in_fstab: false, always: false };
            points.put(&Path::new("/").join(pool), point);
        }
        for (dataset, path, always) in announced.lists.iter().flat_map(listed) {
            let point = Point { dataset: Some(dataset), in_fstab: false, always };
            points.put(Path::new(path), point);
        }
        for entry in &announced.fstab {
            let dataset = entry.zfs.then_some(entry.what.as_str());
            let point = Point { dataset, in_fstab: true, always: !entry.noauto };
            points.put(Path::new(&entry.point), point);
        }
        let unread = announced.unread.as_deref();
        let mut mounts = Mounts { files, points: Points::default(), unread };
        let budget = Budget::for_points();
        for (path, at) in &points.at {
            if files.is_early() && budget.is_over() {
                mounts.unread = Some("finding out where links lead takes too long");
                break;
            }
            let path = mounts.canonical(Path::new(path));
            at.last().into_iter().for_each(|at| mounts.points.put(&path, points.all[*at]));
        }
        mounts
    }

    /// `path` without links: systemd refuses to mount at a link, or below one. This does not look
    /// into mount points on the way, nor into /var and /run: at boot there is nothing there yet.
    pub(crate) fn canonical(&self, path: &Path) -> PathBuf {
        let early = self.files.is_early();
        let later = |at: &Path| {
            (early && LATER.iter().any(|later| at.starts_with(later)))
                || at.parent().is_some_and(|above| self.points.get(above).is_some())
        };
        links::follow(self.files.host, path, later).path
    }

    /// The dataset at the mount point above `path` that is on a pool. Not only the nearest mount
    /// point counts, but also those above it: a unit that needs the path waits for all of them. The
    /// root file system does not count: it is mounted before anything here could matter.
    pub(crate) fn on_pool(&self, path: &Path) -> Option<OnPool<'a>> {
        let above = self.dataset_above(path).map(|above| OnPool::Dataset(above.dataset));
        above.or_else(|| self.unread.map(OnPool::Unread))
    }

    /// The nearest mount point at or above `path` that is on a pool.
    pub(crate) fn dataset_above(&self, path: &Path) -> Option<Above<'a>> {
        let path = self.canonical(path);
        path.ancestors().find_map(|above| {
            let point = self.point(above)?;
            Some(Above { point: above.to_owned(), dataset: point.dataset?, always: point.always })
        })
    }

    /// Whether fstab has this very mount point; if so, whether it is a file system of ZFS.
    pub(crate) fn in_fstab(&self, point: &Path) -> Option<bool> {
        self.point(point).filter(|point| point.in_fstab).map(|point| point.dataset.is_some())
    }

    /// The mount point at or above `path` that fstab mounts from elsewhere than a pool.
    pub(crate) fn other_disk_above(&self, path: &Path) -> Option<PathBuf> {
        let path = self.canonical(path);
        let mut above = path.ancestors();
        above.find(|above| self.in_fstab(above) == Some(false)).map(Path::to_owned)
    }

    fn point(&self, path: &Path) -> Option<&Point<'a>> {
        self.points.get(&simple(path))
    }
}

/// `path` with one `/` between two names and none at the end.
fn simple(path: &Path) -> Cow<'_, Path> {
    let bytes = path.as_os_str().as_bytes();
    let is_simple = bytes.split(|&b| b == b'/').skip(1).all(|name| !matches!(name, b"" | b"."));
    if is_simple { Cow::Borrowed(path) } else { Cow::Owned(path.components().collect()) }
}

/// Where something may be mounted, even if no unit of ours does it: `org.openzfs.systemd:ignore`
/// says nothing about where files are. A path that is too long for the name of a unit is above
/// nothing that anybody here asks for. The third value: it is mounted whenever it can be.
fn listed(list: &List) -> impl Iterator<Item = (&str, &str, bool)> {
    list.points().filter_map(|(name, point, canmount)| {
        let counts = point.starts_with('/') && canmount != "off" && point.len() <= LONGEST;
        counts.then_some((name, point, canmount == "on"))
    })
}

#[cfg(test)]
mod tests {
    use super::list::tests::of;
    use super::*;
    use crate::host::Host;

    /// A machine with this fstab.
    fn machine(root: &Path, fstab: &str) -> Host {
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::write(root.join("etc/fstab"), fstab).unwrap();
        Host::below(root, "6.1.0")
    }

    fn read(host: &Host, list: &str) -> (Announced, Vec<String>) {
        let mut problems = Problems::default();
        let mut announced = Announced::read(Files::before_var(host), &mut problems);
        announced.lists.push(of("tank", list));
        (announced, problems.into_lines())
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
            let (announced, said) = read(&host, list);
            let mounts = Mounts::of(Files::before_var(&host), &announced);
            assert_eq!(mounts.on_pool(Path::new(VAR)).is_some(), expected, "{list:?} {table:?}");
            assert_eq!(said, [""; 0]);
        }
        let host = machine(root.path(), "tank/x /a\\040b zfs");
        let (announced, _) = read(&host, "");
        let mounts = Mounts::of(Files::before_var(&host), &announced);
        let found = mounts.on_pool(Path::new("/a b/c"));
        assert_eq!(found, Some(OnPool::Dataset("tank/x")));
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
        let (announced, _) = read(&host, "tank/home\t/home\ton\ton");
        let mounts = Mounts::of(Files::before_var(&host), &announced);
        for (path, expected) in [
            ("/srv/data", "/var/srv/data"),
            ("/home", "/var/home"),
            ("/mnt/link/x", "/mnt/link/x"),
            ("/etc//x", "/etc/x"),
        ] {
            assert_eq!(mounts.canonical(Path::new(path)), Path::new(expected), "{path}");
        }
        assert_eq!(mounts.in_fstab(Path::new("/var/srv/data")), Some(true));
        for path in ["/home/core/gentoo", "/var/home/core/gentoo"] {
            let found = mounts.on_pool(Path::new(path));
            assert_eq!(found, Some(OnPool::Dataset("tank/home")), "{path}");
        }
    }

    #[test]
    fn fstab_is_read_as_far_as_such_a_file_can_reach_and_no_further() {
        let root = tempfile::tempdir().unwrap();
        let line = "# x\n";
        let padding = line.repeat(usize::try_from(fstab::LARGEST).unwrap() / line.len());
        let table = format!("tank/a /a zfs\n{padding}tank/b /b zfs\n");
        let host = machine(root.path(), &table);
        let (announced, said) = read(&host, "");
        let mounts = Mounts::of(Files::before_var(&host), &announced);
        let on_pool = |path| mounts.on_pool(Path::new(path)).is_some();
        assert!(on_pool("/a") && !on_pool("/b"));
        assert!(said.len() == 1 && said[0].contains("/etc/fstab: has more than"), "{said:?}");
    }

    /// Case 5 of the field: /etc/zfs is a link into /var.
    #[test]
    fn a_list_that_cannot_be_read_leaves_every_path_in_doubt() {
        let root = tempfile::tempdir().unwrap();
        let host = machine(root.path(), "");
        let lists = root.path().join("var/lib/zfs-etc/zfs-list.cache");
        std::fs::create_dir_all(&lists).unwrap();
        std::fs::write(lists.join("tank"), "tank/a\t/a\ton\ton\n").unwrap();
        std::os::unix::fs::symlink("../var/lib/zfs-etc", root.path().join("etc/zfs")).unwrap();
        let check = |about: &str| {
            let mut problems = Problems::default();
            let announced = Announced::read(Files::before_var(&host), &mut problems);
            assert!(announced.lists.is_empty(), "{:?}", announced.lists);
            let mounts = Mounts::of(Files::before_var(&host), &announced);
            let Some(OnPool::Unread(why)) = mounts.on_pool(Path::new("/x")) else { panic!() };
            assert!(why.contains(about), "{why}");
            assert_eq!(problems.into_lines(), [why]);
        };
        check("/var/lib/zfs-etc/zfs-list.cache, which is mounted later");
        std::fs::remove_dir_all(root.path().join("var")).unwrap();
        check("/var/lib/zfs-etc/zfs-list.cache, which is mounted later");
        // One list alone.
        std::fs::remove_file(root.path().join("etc/zfs")).unwrap();
        std::fs::create_dir_all(root.path().join("etc/zfs/zfs-list.cache")).unwrap();
        let link = root.path().join("etc/zfs/zfs-list.cache/tank");
        std::os::unix::fs::symlink("/var/lists/tank", link).unwrap();
        check("/var/lists/tank, which is mounted later");
    }
}
