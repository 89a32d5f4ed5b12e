//! Which packages are built, in which version, and an option for configure.

use anyhow::Result;

use crate::prefix::portage::package_of;
use crate::userland::choice::Choice;
use crate::userland::version::Version;

/// The package of the programs. The recipe `make` uses this name for them too.
pub(super) const PROGRAMS: &str = "sys-fs/zfs";
const MODULES: &str = "sys-fs/zfs-kmod";

/// The option of OpenZFS's configure for a kernel that is newer than the release supports.
pub(super) const EXPERIMENTAL: &str = "--enable-linux-experimental";

/// The atom of the programs that belong to the modules in `atoms`, which have versions. None if the
/// system's programs are used.
///
/// # Errors
/// The system's programs are wanted, but they are missing or of another version.
pub(super) fn wanted(userland: &Choice, atoms: &[String]) -> Result<Option<String>> {
    let version = version_of_modules(atoms);
    if !userland.wanted(version)? {
        return Ok(None);
    }
    Ok(Some(match version {
        // Take any revision: the ebuild of the modules has other ones.
        Some(version) => {
            format!("~{PROGRAMS}-{}", version.rsplit_once("-r").map_or(version, |(v, _)| v))
        }
        None => PROGRAMS.to_owned(),
    }))
}

/// `atoms` with that of the `programs`, if there is one. It replaces the one in portage.atoms.
pub(super) fn among(mut atoms: Vec<String>, programs: Option<&str>) -> Vec<String> {
    if let Some(programs) = programs {
        atoms.retain(|atom| package_of(atom) != PROGRAMS);
        atoms.push(programs.to_owned());
    }
    atoms
}

/// The version of the modules in `atoms`, which have versions.
pub(super) fn version_of_modules(atoms: &[String]) -> Option<&str> {
    atoms.iter().find_map(|atom| version_in(atom))
}

/// The version in an atom like `=sys-fs/zfs-kmod-2.3.2-r1`.
fn version_in(atom: &str) -> Option<&str> {
    let plain = atom.trim_start_matches(['=', '~']).split([':', '[']).next()?;
    plain.strip_prefix(MODULES)?.strip_prefix('-')
}

/// The version in the text of a META file.
pub(super) fn version_of(meta: &str) -> Option<String> {
    let value = |key: &str| {
        let line = meta.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        line.map(str::trim).filter(|value| !value.is_empty())
    };
    let version = format!("{}-{}", value("Version")?, value("Release").unwrap_or("1"));
    Version::parse(&version).map(|_| version)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Userland;
    use crate::host::Host;

    #[test]
    fn programs_that_portage_atoms_names_too_are_built_once_and_of_the_version_of_the_modules() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::below(root.path(), "6.1.0");
        let atoms = ["=sys-fs/zfs-kmod-2.3.2", "=sys-fs/zfs-2.3.9"].map(str::to_owned).to_vec();
        for (configured, expected) in [
            (Userland::Prefix, Some("~sys-fs/zfs-2.3.2")),
            (Userland::Auto, Some("~sys-fs/zfs-2.3.2")),
        ] {
            let programs = wanted(&Choice::of(&host, configured), &atoms).unwrap();
            assert_eq!(programs.as_deref(), expected, "{configured:?}");
            let all = among(atoms.clone(), programs.as_deref());
            assert_eq!(all, ["=sys-fs/zfs-kmod-2.3.2", "~sys-fs/zfs-2.3.2"]);
        }
        // An error, although portage.atoms names the programs: the system has none.
        assert!(wanted(&Choice::of(&host, Userland::Host), &atoms).is_err());
        assert_eq!(among(atoms.clone(), None), atoms);
    }

    #[test]
    fn the_version_of_programs_is_that_of_the_modules() {
        for (atom, expected) in [
            ("=sys-fs/zfs-kmod-2.3.2", Some("2.3.2")),
            ("=sys-fs/zfs-kmod-2.4.0_rc1-r1:0/2.4.0", Some("2.4.0_rc1-r1")),
            ("sys-fs/zfs-kmod", None),
            ("=sys-fs/zfs-2.3.2", None),
        ] {
            assert_eq!(version_in(atom), expected, "{atom}");
        }
        let meta =
            "Meta:          1\nName:          zfs\nVersion:       2.4.0\nRelease:       rc1\n";
        assert_eq!(version_of(meta).as_deref(), Some("2.4.0-rc1"));
        assert_eq!(version_of("Version: x\n"), None);
    }
}
