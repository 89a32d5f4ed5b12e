//! Remembers what zpool.cache forgets. An import rewrites the file with only the pools that are
//! imported then (spa_write_cachefile, module/zfs/spa_config.c). Without this memory, a pool whose
//! disk is missing in this boot would not even be missed in the next.
//!
//! So zfs-load notes the names before anything is imported. The check keeps those that are absent,
//! until they are imported or forgotten by hand. Both files are lists of names, a line each.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::cache_file::{CACHE, CacheFile};
use crate::config::is_pool_name;
use crate::host::Host;
use crate::store::{Layout, make_dirs, write_atomic};

/// The list of this boot: what the cache file named before the import.
fn noted(host: &Host) -> PathBuf {
    Layout::new(&host.root).run().join("pools-before-import")
}

/// The list that survives a boot: what was absent at the last check.
fn kept(host: &Host) -> PathBuf {
    Layout::new(&host.root).state().join("missing-pools")
}

/// Notes what the cache file names. zfs-load calls this before the module is loaded, and so before
/// any import. A note that exists already is older, and stays.
///
/// # Errors
/// It cannot be written: the boot goes on all the same.
pub fn note(host: &Host) -> Result<()> {
    let path = noted(host);
    if super::loaded(host) {
        // Too late: a pool that is exported from now on is gone because somebody wanted that.
        return Ok(());
    }
    let CacheFile::Pools(names) = CacheFile::read(&host.path(CACHE)) else { return Ok(()) };
    if names.is_empty() || path.exists() {
        return Ok(());
    }
    write(&path, names.iter().map(String::as_str))
}

/// The pools that were in the cache file before this boot's import, and those that were missing
/// in boots before it.
pub fn missing(host: &Host) -> BTreeSet<String> {
    read(&noted(host)).into_iter().chain(read(&kept(host))).collect()
}

/// Keeps those of [`missing`] that are not `imported`.
///
/// # Errors
/// /var cannot be written to.
pub fn keep(host: &Host, imported: impl Fn(&str) -> bool) -> Result<()> {
    let absent: BTreeSet<String> = missing(host).into_iter().filter(|n| !imported(n)).collect();
    if absent != read(&kept(host)).into_iter().collect() {
        write(&kept(host), absent.iter().map(String::as_str))?;
    }
    remove(&noted(host))
}

/// Forgets one pool. Returns whether there was something to forget.
///
/// # Errors
/// /var cannot be written to.
pub fn forget(host: &Host, name: &str) -> Result<bool> {
    let mut known = false;
    for path in [noted(host), kept(host)] {
        let names = read(&path);
        if names.iter().any(|n| n == name) {
            known = true;
            write(&path, names.iter().map(String::as_str).filter(|n| *n != name))?;
        }
    }
    Ok(known)
}

fn read(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().filter(|name| is_pool_name(name)).map(str::to_owned).collect()
}

/// Writes a list. An empty list removes the file.
fn write<'a>(path: &Path, names: impl Iterator<Item = &'a str>) -> Result<()> {
    let text: String = names.map(|name| format!("{name}\n")).collect();
    if text.is_empty() {
        return remove(path);
    }
    make_dirs(path.parent().unwrap_or(path))?;
    write_atomic(path, text.as_bytes())
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("{}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::host;
    use super::*;

    const FOUR: &[u8] = include_bytes!("../../tests/pools/zpool.cache-four");
    const ONE: &[u8] = include_bytes!("../../tests/pools/zpool.cache-one");

    fn names(set: &BTreeSet<String>) -> Vec<&str> {
        set.iter().map(String::as_str).collect()
    }

    #[test]
    fn a_pool_that_zpool_cache_forgets_is_missed_until_it_is_back_or_forgotten_by_hand() {
        let (_root, host) = host();
        let cache = host.path(CACHE);
        std::fs::create_dir_all(cache.parent().unwrap()).unwrap();
        std::fs::write(&cache, FOUR).unwrap();
        let module = host.path("/sys/module/zfs");
        std::fs::create_dir_all(&module).unwrap();
        note(&host).unwrap();
        assert_eq!(names(&missing(&host)), [""; 0], "not once the module is loaded");
        std::fs::remove_dir(&module).unwrap();
        note(&host).unwrap();
        // The import of tank rewrites the file.
        std::fs::write(&cache, ONE).unwrap();
        note(&host).unwrap();
        assert_eq!(names(&missing(&host)), ["e", "m", "s", "tank"]);
        keep(&host, |name| name == "tank").unwrap();
        assert_eq!(names(&missing(&host)), ["e", "m", "s"]);
        // The next boot: /run is empty, and m is there again.
        note(&host).unwrap();
        keep(&host, |name| ["tank", "m"].contains(&name)).unwrap();
        assert_eq!(names(&missing(&host)), ["e", "s"]);
        assert!(forget(&host, "e").unwrap() && !forget(&host, "e").unwrap());
        assert_eq!(names(&missing(&host)), ["s"]);
        assert!(forget(&host, "s").unwrap());
        assert!(!kept(&host).exists() && !noted(&host).exists());
    }
}
