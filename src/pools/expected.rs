//! Which pools this machine has to have: those that the configuration names; if it names none,
//! those that the machine is known to have had.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Serialize;

use super::cache_file::{CACHE, CacheFile, LARGEST};
use super::memory;
use crate::config::{Settings, is_pool_name};
use crate::host::Host;

/// The lists of zfs-mount-generator(8), a file for each pool.
pub const LISTS: &str = "/etc/zfs/zfs-list.cache";
/// Who says that a pool is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    /// `pools.expected`
    Configuration,
    /// [`CACHE`]
    CacheFile,
    /// A file in [`LISTS`].
    MountList,
    /// It was in [`CACHE`], and has not been imported since.
    Missing,
}

/// The pools that are expected.
#[derive(Clone, Debug)]
pub struct Expected {
    /// Name, and who expects it. Configured pools keep their order; others are sorted by name.
    pub pools: Vec<(String, By)>,
    /// The cache file. It is read even if the configuration names the pools.
    pub cache: CacheFile,
}

impl Expected {
    /// Looks into the configuration and at the machine; never fails.
    pub fn of(host: &Host, settings: &Settings) -> Expected {
        let cache = CacheFile::read(&host.path(CACHE));
        let configured = &settings.pools.expected;
        if !configured.is_empty() {
            let pools = configured.iter().map(|name| (name.clone(), By::Configuration));
            return Expected { pools: pools.collect(), cache };
        }
        let mut pools = BTreeMap::new();
        let missing = memory::missing(host).into_iter().map(|name| (name, By::Missing));
        let listed = lists(&host.path(LISTS)).into_iter().map(|name| (name, By::MountList));
        pools.extend(missing.chain(listed));
        if let CacheFile::Pools(cached) = &cache {
            pools.extend(cached.iter().map(|name| (name.clone(), By::CacheFile)));
        }
        Expected { pools: pools.into_iter().collect(), cache }
    }

    /// Why the expected pools are not known, and what to do. There are two cases: the cache file is
    /// unusable and the configuration names no pool, or units wait for pools
    /// (`boot.require-pools-for`) and nothing names any.
    pub fn unknown(&self, settings: &Settings) -> Option<String> {
        let configured = self.pools.iter().any(|(_, by)| *by == By::Configuration);
        let waiting = &settings.boot.require_pools_for;
        let what = self.cache.describe();
        match &self.cache {
            CacheFile::Unusable(_) if !configured => Some(format!(
                "the expected pools are not known: {what}. Import them by name (zpool import): \
                 that writes the file anew; or name them in pools.expected"
            )),
            _ if self.pools.is_empty() && !waiting.is_empty() => Some(format!(
                "the expected pools are not known, and boot.require-pools-for makes units wait for \
                 them ({}): {what}. Name the pools that these need in pools.expected",
                waiting.join(", ")
            )),
            _ => None,
        }
    }
}

/// The pools of the datasets in the files of `directory`. The files have lines of `zfs list -H`, as
/// zed keeps them.
fn lists(directory: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        // Skips zed's own temporary files, and what is no file.
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if hidden || !std::fs::metadata(entry.path()).is_ok_and(|m| m.is_file()) {
            continue;
        }
        let mut bytes = Vec::new();
        let read = File::open(entry.path()).and_then(|f| f.take(LARGEST).read_to_end(&mut bytes));
        if let Err(e) = read {
            tracing::warn!("{}: {e}", entry.path().display());
        }
        let text = String::from_utf8_lossy(&bytes);
        let datasets = text.lines().filter_map(|line| line.split_once('\t'));
        let pools = datasets.filter_map(|(dataset, _)| dataset.split('/').next());
        names.extend(pools.filter(|name| is_pool_name(name)).map(str::to_owned));
    }
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::super::tests::{host, write};
    use super::*;
    use std::fs;

    fn expected(host: &Host, configured: &[&str]) -> Expected {
        let mut settings = Settings::default();
        settings.pools.expected = configured.iter().map(|&n| n.to_owned()).collect();
        Expected::of(host, &settings)
    }

    fn unknown(host: &Host, configured: &[&str]) -> Option<String> {
        expected(host, configured).unknown(&Settings::default())
    }

    #[test]
    fn the_configuration_decides_and_without_it_what_the_machine_remembers() {
        let (_root, host) = host();
        write(&host, CACHE, include_bytes!("../../tests/pools/zpool.cache-one"));
        write(&host, &format!("{LISTS}/data"), "data\t/data\ton\ndata/x\t/x\ton\nno line\n");
        write(&host, &format!("{LISTS}/empty"), "");
        write(&host, &format!("{LISTS}/.tmp"), "other\t/o\ton\n");
        write(&host, &format!("{LISTS}/bad"), "../x\t/o\ton\n-f\t/o\ton\n\t\n");
        let known = expected(&host, &[]);
        let (data, tank) = ("data".to_owned(), "tank".to_owned());
        assert_eq!(known.pools, [(data, By::MountList), (tank, By::CacheFile)]);
        let named = expected(&host, &["z", "a"]);
        let names: Vec<_> = named.pools.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["z", "a"], "in the order of the configuration, and nothing else");
    }

    #[test]
    fn where_units_wait_for_pools_it_has_to_be_known_for_which() {
        let (_root, host) = host();
        let mut settings = Settings::default();
        settings.boot.require_pools_for = vec!["docker.service".into(), "db.service".into()];
        let why = |settings: &Settings| Expected::of(&host, settings).unknown(settings);
        let said = why(&settings).unwrap();
        for words in ["docker.service, db.service", "there is no /etc/zfs", "in pools.expected"] {
            assert!(said.contains(words), "{said}");
        }
        settings.pools.expected = vec!["tank".into()];
        assert_eq!(why(&settings), None);
        settings.pools.expected.clear();
        write(&host, &format!("{LISTS}/data"), "data\t/data\ton\n");
        assert_eq!(why(&settings), None, "known from the lists");
    }

    #[test]
    fn no_cache_file_an_empty_one_and_a_damaged_one_are_three_different_things() {
        let (_root, host) = host();
        let path = host.path(CACHE);
        let good = include_bytes!("../../tests/pools/zpool.cache-one");
        assert_eq!(CacheFile::read(&path), CacheFile::Missing);
        let mut said = vec![CacheFile::read(&path).describe()];
        assert_eq!(unknown(&host, &[]), None);
        write(&host, CACHE, "");
        assert_eq!(CacheFile::read(&path), CacheFile::Empty);
        assert_eq!(unknown(&host, &[]), None);
        said.push(CacheFile::read(&path).describe());
        write(&host, CACHE, &good[..good.len() / 2]);
        said.push(CacheFile::read(&path).describe());
        for (text, words) in said.iter().zip(["there is no", "is empty", "is damaged"]) {
            assert!(text.contains(CACHE) && text.contains(words), "{text}");
        }
        let why = unknown(&host, &[]).unwrap();
        assert!(why.contains("is damaged") && why.contains("pools.expected"), "{why}");
        assert_eq!(unknown(&host, &["tank"]), None, "it is known who is expected");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(CacheFile::read(&path), CacheFile::Unusable(_)));
        fs::remove_dir(&path).unwrap();
        std::os::unix::fs::symlink("/nowhere", &path).unwrap();
        assert!(matches!(CacheFile::read(&path), CacheFile::Unusable(_)), "a dangling link");
    }
}
