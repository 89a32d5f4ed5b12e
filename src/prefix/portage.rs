//! Portage in the prefix: which files decide what it builds, and how it is called.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::config::Settings;
use crate::exit::{Exit, WithExit};
use crate::fail;

/// `category/name` of a package atom: without operator, version, slot and repository (PMS,
/// "Package dependency specifications").
pub fn package_of(atom: &str) -> &str {
    let plain = atom.trim_start_matches(['<', '>', '=', '~', '!']);
    let versioned = plain.len() != atom.len();
    let plain = plain.split([':', '[']).next().unwrap_or(plain);
    if !versioned {
        return plain;
    }
    // The version begins at the last dash before a digit. A revision (-r1) may follow it.
    let plain = match plain.rsplit_once("-r") {
        Some((head, rev)) if rev.bytes().all(|b| b.is_ascii_digit()) && !rev.is_empty() => head,
        _ => plain,
    };
    match plain.rsplit_once('-') {
        Some((head, version)) if version.starts_with(|c: char| c.is_ascii_digit()) => head,
        _ => plain,
    }
}

/// The directories whose content decides what `atoms` build to: Portage's configuration, and the
/// packages' directories in every repository of the prefix. Call this with the rights of the
/// prefix's owner: it follows whatever is there.
///
/// # Errors
/// [`Exit::PrefixIncomplete`]: repos.conf cannot be read, or no repository has a package.
pub fn recipe_dirs(prefix: &Path, atoms: &[String]) -> Result<Vec<PathBuf>> {
    let mut dirs = vec![prefix.join("etc/portage")];
    let repositories = repositories(prefix).exit(Exit::PrefixIncomplete)?;
    for atom in atoms {
        let packages = repositories.iter().map(|r| r.join(package_of(atom)));
        let found: Vec<PathBuf> = packages.filter(|p| p.is_dir()).collect();
        if found.is_empty() {
            fail!(
                Exit::PrefixIncomplete,
                "no repository of {}/etc/portage/repos.conf has {atom}: {repositories:?}",
                prefix.display()
            );
        }
        dirs.extend(found);
    }
    Ok(dirs)
}

/// The repositories of `etc/portage/repos.conf` (portage(5)), a file or a directory of files.
fn repositories(prefix: &Path) -> Result<Vec<PathBuf>> {
    let conf = prefix.join("etc/portage/repos.conf");
    let mut files: Vec<PathBuf> = if conf.is_dir() {
        fs::read_dir(&conf)
            .and_then(|dir| dir.map(|e| e.map(|e| e.path())).collect())
            .with_context(|| format!("{}", conf.display()))?
    } else {
        vec![conf]
    };
    files.sort();
    let mut found = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).with_context(|| format!("{}", file.display()))?;
        found.extend(locations(&text, prefix));
    }
    Ok(found)
}

/// The `location`s in the text of one file of repos.conf.
pub(super) fn locations(text: &str, prefix: &Path) -> Vec<PathBuf> {
    let value = |line: &str| {
        let (name, value) = line.split_once('=')?;
        let value = value.trim().replace("${EPREFIX}", &prefix.to_string_lossy());
        (name.trim() == "location").then(|| PathBuf::from(value))
    };
    text.lines().filter_map(value).collect()
}

/// The configured atoms; `zfs.version` pins those of sys-fs/zfs-kmod that name no version.
pub fn atoms(settings: &Settings) -> Vec<String> {
    let pin = |atom: &String| match &settings.zfs.version {
        Some(version) if atom == "sys-fs/zfs-kmod" => format!("={atom}-{version}"),
        _ => atom.clone(),
    };
    settings.portage.atoms.iter().map(pin).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_package_of_an_atom_is_category_and_name() {
        for (atom, want) in [
            ("sys-fs/zfs-kmod", "sys-fs/zfs-kmod"),
            ("=sys-fs/zfs-kmod-2.3.2", "sys-fs/zfs-kmod"),
            ("=sys-fs/zfs-kmod-2.3.2-r1", "sys-fs/zfs-kmod"),
            ("~sys-fs/zfs-kmod-2.3.2_rc1:0/2.3.2::zfs-prefix", "sys-fs/zfs-kmod"),
            (">=sys-kernel/spl-0.7.13", "sys-kernel/spl"),
            ("sys-fs/zfs-kmod::zfs-prefix", "sys-fs/zfs-kmod"),
            ("sys-fs/zfs-kmod:0", "sys-fs/zfs-kmod"),
        ] {
            assert_eq!(package_of(atom), want, "{atom}");
        }
    }

    #[test]
    fn the_repositories_are_those_of_repos_conf_file_or_directory() {
        let prefix = tempfile::tempdir().unwrap();
        let p = prefix.path();
        fs::create_dir_all(p.join("etc/portage")).unwrap();
        fs::create_dir_all(p.join("repo/sys-fs/zfs-kmod")).unwrap();
        let text = "[DEFAULT]\nmain-repo = x\n[x]\nlocation = ${EPREFIX}/repo\n";
        let atoms = ["=sys-fs/zfs-kmod-2.3.2".to_owned()];
        let want = vec![p.join("etc/portage"), p.join("repo/sys-fs/zfs-kmod")];
        fs::write(p.join("etc/portage/repos.conf"), text).unwrap();
        assert_eq!(recipe_dirs(p, &atoms).unwrap(), want);
        fs::remove_file(p.join("etc/portage/repos.conf")).unwrap();
        fs::create_dir(p.join("etc/portage/repos.conf")).unwrap();
        fs::write(p.join("etc/portage/repos.conf/x.conf"), text).unwrap();
        assert_eq!(recipe_dirs(p, &atoms).unwrap(), want);
        for (case, atom) in [("no such package", "sys-fs/zfs"), ("no such category", "a/b")] {
            let error = recipe_dirs(p, &[atom.to_owned()]).unwrap_err();
            assert_eq!(crate::exit::of(&error), Exit::PrefixIncomplete, "{case}: {error:#}");
        }
    }
}
