//! Whether a path is on a pool that is not there. What is written to such a path lands on the disk
//! below the mount point: it fills the wrong disk, and nothing can be mounted over it later.

use std::fmt;
use std::path::{Path, PathBuf};

use super::cache_file::{CACHE, CacheFile};
use crate::config::Settings;
use crate::exit::Exit;
use crate::fail;
use crate::host::files::Files;
use crate::host::{Host, mountinfo};
use crate::mountpoints::problems::Problems;
use crate::mountpoints::{Announced, Mounts};
use crate::store::Layout;

/// What programs of this package write to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Directory {
    /// The modules, and what is remembered of builds and pools: `/var/lib/zfs-prefix`.
    State,
    /// Sources, downloads and build directories: `/var/cache/zfs-prefix`.
    Cache,
    /// `prefix.path`
    Prefix,
}

impl Directory {
    fn path(self, settings: &Settings) -> PathBuf {
        let layout = Layout::new(Path::new("/"));
        match self {
            Directory::State => layout.state(),
            Directory::Cache => layout.cache(),
            Directory::Prefix => settings.prefix.path.clone(),
        }
    }

    /// What keeps it off the pools.
    fn cure(self) -> &'static str {
        match self {
            Directory::State | Directory::Cache => "mount another file system there",
            Directory::Prefix => "set prefix.path to a directory that is on no pool",
        }
    }
}

/// A path whose file system is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Absent {
    /// The path.
    pub path: PathBuf,
    /// The mount point above it, without links.
    pub point: PathBuf,
    /// What is mounted there when its pool is imported.
    pub dataset: String,
    /// Whether the pool is imported.
    pub imported: bool,
}

impl Absent {
    fn pool(&self) -> &str {
        pool_of(&self.dataset)
    }
}

impl fmt::Display for Absent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, point) = (self.path.display(), self.point.display());
        let (dataset, pool) = (&self.dataset, self.pool());
        write!(f, "{path} is on pool {pool} (dataset {dataset}, mount point {point})")?;
        if self.imported {
            write!(f, ", and the dataset is not mounted")
        } else {
            write!(f, ", which is not imported")
        }
    }
}

fn pool_of(dataset: &str) -> &str {
    dataset.split('/').next().unwrap_or(dataset)
}

/// Refuses to go on if one of `directories` is on a pool that is not there.
///
/// # Errors
/// [`Exit::PoolsAbsent`], with the path, the pool, and what to do.
pub fn refuse(host: &Host, settings: &Settings, directories: &[Directory]) -> anyhow::Result<()> {
    let paths: Vec<PathBuf> = directories.iter().map(|one| one.path(settings)).collect();
    let absent = absent(host, settings, &paths);
    let Some((at, absent)) = absent.into_iter().enumerate().find_map(|(at, a)| Some((at, a?)))
    else {
        return Ok(());
    };
    let cure = directories[at].cure();
    let (pool, dataset) = (absent.pool(), &absent.dataset);
    let what = if absent.imported {
        format!("Mount it: zfs mount -l {dataset}; or {cure}")
    } else if super::loaded(host) {
        format!("Import it: zpool import {pool}; or {cure}")
    } else {
        format!("ZFS is not loaded, so the pool cannot be imported: {cure}")
    };
    fail!(Exit::PoolsAbsent, "nothing is written: {absent}. {what}")
}

/// For each of `paths`, whether it is on a pool that is not there. The answer is that of
/// /etc/fstab, of the lists of zfs-mount-generator(8), and for pools without a list, of
/// zpool.cache and the configuration: then the pool's mount point is taken to be `/POOL`, which is
/// its default.
pub fn absent(host: &Host, settings: &Settings, paths: &[PathBuf]) -> Vec<Option<Absent>> {
    let mut problems = Problems::default();
    let files = Files::now(host);
    let mut announced = Announced::read(files, &mut problems);
    announced.pools = settings.pools.expected.clone();
    if let CacheFile::Pools(names) = CacheFile::read(&host.path(CACHE)) {
        announced.pools.extend(names);
    }
    for problem in problems.into_lines() {
        tracing::warn!("{problem}");
    }
    let mounts = Mounts::of(files, &announced);
    let info = std::fs::read(host.path("/proc/self/mountinfo")).unwrap_or_default();
    let mounted: Vec<PathBuf> = mountinfo::read(&info).into_iter().map(|m| m.place).collect();
    let one = |path: &PathBuf| {
        let found = mounts.dataset_above(path)?;
        let (way, point) = (mounts.canonical(path), found.point);
        // Whatever is mounted there, or between it and the path, has the file.
        let is_mounted = |above: &&Path| mounted.iter().any(|place| place == above);
        let nearest = way.ancestors().find(is_mounted).unwrap_or(Path::new("/"));
        if nearest.starts_with(&point) {
            return None;
        }
        let imported = super::imported(host, pool_of(found.dataset));
        // Nobody says that it is mounted whenever its pool is there.
        if imported && !found.always {
            return None;
        }
        let (path, dataset) = (path.clone(), found.dataset.to_owned());
        Some(Absent { path, point, dataset, imported })
    };
    paths.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit;

    /// Case 2 of the field, and what is near to it.
    #[test]
    fn nothing_is_written_below_the_mount_point_of_a_pool_that_is_not_there() {
        const HOME: &str = "tank/home\t/home\ton";
        const ROOT: &str = "22 1 0:21 / / rw - ext4 /dev/vda rw\n";
        let mount = |place: &str, what: &str| format!("23 1 0:22 / {place} rw - zfs {what} rw\n");
        for (case, list, fstab, mounted, imported, refused) in [
            ("nothing is announced", "", "", String::new(), false, false),
            ("listed, no pool", HOME, "", String::new(), false, true),
            ("listed and mounted", HOME, "", mount("/home", "tank/home"), true, false),
            ("imported and not mounted", HOME, "", String::new(), true, true),
            ("noauto, no pool", "tank/home\t/home\tnoauto", "", String::new(), false, true),
            ("noauto, imported", "tank/home\t/home\tnoauto", "", String::new(), true, false),
            ("off", "tank/home\t/home\toff", "", String::new(), false, false),
            ("fstab", "", "tank/home /home zfs nofail", String::new(), false, true),
            ("another disk's", HOME, "/dev/vdb /home ext4", String::new(), false, false),
            (
                "another file system is mounted in between",
                HOME,
                "",
                mount("/home/core", "/dev/vdb"),
                false,
                false,
            ),
            (
                "a dataset below a mounted one",
                "tank/home\t/home\ton\ntank/core\t/home/core\ton",
                "",
                mount("/home", "tank/home"),
                true,
                true,
            ),
        ] {
            let root = tempfile::tempdir().unwrap();
            let host = Host::below(root.path(), "6.1.0");
            host.put("/etc/zfs/zfs-list.cache/tank", list);
            host.put("/etc/fstab", fstab);
            host.put("/proc/self/mountinfo", &format!("{ROOT}{mounted}"));
            if imported {
                std::fs::create_dir_all(host.path("/proc/spl/kstat/zfs/tank")).unwrap();
            }
            let settings = Settings::default();
            let result =
                refuse(&host, &settings, &[Directory::State, Directory::Cache, Directory::Prefix]);
            assert_eq!(result.is_err(), refused, "{case}: {result:?}");
            let Err(error) = result else { continue };
            assert_eq!(exit::of(&error), Exit::PoolsAbsent, "{case}");
            let text = error.to_string();
            assert!(
                text.contains("nothing is written: /home/core/gentoo is on pool tank"),
                "{text}"
            );
        }
    }

    #[test]
    fn a_pool_without_a_list_is_taken_to_be_at_its_default_place_while_it_is_not_there() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::below(root.path(), "6.1.0");
        let mut settings = Settings::default();
        settings.prefix.path = PathBuf::from("/tank/gentoo");
        let check = |settings: &Settings| refuse(&host, settings, &[Directory::Prefix]);
        assert!(check(&settings).is_ok());
        settings.pools.expected = vec!["tank".to_owned()];
        let text = check(&settings).unwrap_err().to_string();
        let what = "ZFS is not loaded, so the pool cannot be imported: set prefix.path to";
        assert!(text.contains(what), "{text}");
        std::fs::create_dir_all(host.path("/sys/module/zfs")).unwrap();
        let text = check(&settings).unwrap_err().to_string();
        assert!(text.contains("Import it: zpool import tank; or set prefix.path"), "{text}");
        // Perhaps its mount point is another one.
        std::fs::create_dir_all(host.path("/proc/spl/kstat/zfs/tank")).unwrap();
        assert!(check(&settings).is_ok());
    }
}
