//! What of OpenZFS the system itself has, at boot, before anything is loaded.

use std::fs::Metadata;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use crate::config::Userland;
use crate::host::Host;

/// The directories of systemd.generator(7), first choice first, and where /lib is one of its own.
const GENERATORS: [&str; 5] = [
    "/run/systemd/system-generators",
    "/etc/systemd/system-generators",
    "/usr/local/lib/systemd/system-generators",
    "/usr/lib/systemd/system-generators",
    "/lib/systemd/system-generators",
];
/// Where the system's own programs are.
const PROGRAMS: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];
/// Where those are that were published with the loaded modules.
const PUBLISHED: &str = "/run/zfs-prefix/active/userland/sbin/zfs";
/// A link that leads here may dangle now and not after a daemon-reload, or the other way round; what it
/// leads to is never looked at, so that each run of the generator decides the same.
const LATER: [&str; 2] = ["/run/zfs-prefix", "/var"];

/// The zfs-mount-generator(8) that systemd runs on this system, or that somebody masked; `None`: the
/// lists are for us to read.
pub(super) fn mount_generator(host: &Host) -> Option<PathBuf> {
    for directory in GENERATORS {
        let path = Path::new(directory).join("zfs-mount-generator");
        let Some((target, meta)) = resolved(host, &path) else { continue };
        let masked = target == Path::new("/dev/null") || (meta.is_file() && meta.len() == 0);
        if masked || runs(&meta) {
            return Some(path);
        }
    }
    None
}

/// How units call zfs(8), with `zfs.userland` as it is configured.
pub(super) fn zfs(host: &Host, userland: Userland) -> PathBuf {
    if userland == Userland::Prefix {
        return PathBuf::from(PUBLISHED);
    }
    own_program(host, "zfs").unwrap_or_else(|| PathBuf::from(PUBLISHED))
}

/// The system's own program of this name, which may be of another version than the modules.
pub(super) fn own_program(host: &Host, name: &str) -> Option<PathBuf> {
    let mut paths = PROGRAMS.iter().map(|directory| Path::new(directory).join(name));
    paths.find(|path| resolved(host, path).is_some_and(|(_, meta)| runs(&meta)))
}

fn runs(meta: &Metadata) -> bool {
    meta.is_file() && meta.permissions().mode() & 0o111 != 0
}

/// What the links at `path` lead to at last, and what that is.
fn resolved(host: &Host, path: &Path) -> Option<(PathBuf, Metadata)> {
    let mut path = path.to_owned();
    // As many as the kernel follows.
    for _ in 0..40 {
        if LATER.iter().any(|later| path.starts_with(later)) {
            return None;
        }
        let meta = std::fs::symlink_metadata(host.path(&path)).ok()?;
        if !meta.is_symlink() {
            return Some((path, meta));
        }
        let target = std::fs::read_link(host.path(&path)).ok()?;
        path = plain(&path.parent()?.join(target));
    }
    None
}

/// An absolute path without `.` and `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::ParentDir => drop(plain.pop()),
            Component::Normal(name) => plain.push(name),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn put(host: &Host, path: &str, text: &str, mode: u32) {
        let path = host.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// A generator that is a link of this content; everything else it could lead to is there.
    fn linked(target: &str) -> Option<PathBuf> {
        let root = tempfile::tempdir().unwrap();
        let host = crate::unit::tests::host(root.path());
        put(&host, "/run/zfs-prefix/active/userland/g", "x", 0o755);
        put(&host, "/var/g", "x", 0o755);
        put(&host, "/opt/g", "x", 0o755);
        put(&host, "/opt/text", "x", 0o644);
        put(&host, "/dev/null", "x", 0o666);
        let directory = host.path("/usr/lib/systemd/system-generators");
        fs::create_dir_all(&directory).unwrap();
        symlink("/run/zfs-prefix/active/userland/g", host.path("/opt/on")).unwrap();
        symlink("zfs-mount-generator", directory.join("again")).unwrap();
        symlink(target, directory.join("zfs-mount-generator")).unwrap();
        mount_generator(&host)
    }

    #[test]
    fn a_link_into_what_is_loaded_later_is_no_generator_also_when_it_leads_somewhere() {
        let ours = "/usr/lib/systemd/system-generators/zfs-mount-generator";
        for (target, counts) in [
            ("/run/zfs-prefix/active/userland/g", false),
            ("../../../../run/zfs-prefix/active/userland/g", false),
            ("/opt/on", false),
            ("/var/g", false),
            ("/nowhere", false),
            ("again", false),
            ("/opt/text", false),
            ("/opt/g", true),
            ("../../../../opt/g", true),
            // Masked: the operator wants none.
            ("/dev/null", true),
        ] {
            assert_eq!(linked(target), counts.then(|| PathBuf::from(ours)), "{target}");
        }
    }

    #[test]
    fn a_program_of_the_system_counts_in_whatever_directory_systemd_looks() {
        for directory in GENERATORS {
            let root = tempfile::tempdir().unwrap();
            let host = crate::unit::tests::host(root.path());
            assert_eq!(mount_generator(&host), None);
            let path = format!("{directory}/zfs-mount-generator");
            put(&host, &path, "x", 0o644);
            assert_eq!(mount_generator(&host), None, "{directory}: not executable");
            put(&host, &path, "x", 0o755);
            assert_eq!(mount_generator(&host), Some(PathBuf::from(&path)));
            put(&host, &path, "", 0o644);
            assert_eq!(mount_generator(&host), Some(PathBuf::from(&path)), "an empty file masks");
        }
    }

    #[test]
    fn zfs_is_the_systems_own_or_the_one_published_with_the_modules() {
        let root = tempfile::tempdir().unwrap();
        let host = crate::unit::tests::host(root.path());
        let zfs = |userland| super::zfs(&host, userland);
        assert_eq!(zfs(Userland::Auto), Path::new(PUBLISHED));
        put(&host, PUBLISHED, "x", 0o755);
        fs::create_dir_all(host.path("/usr/sbin")).unwrap();
        symlink(PUBLISHED, host.path("/usr/sbin/zfs")).unwrap();
        assert_eq!(zfs(Userland::Auto), Path::new(PUBLISHED), "a link of install-openzfs");
        put(&host, "/usr/local/sbin/zfs", "x", 0o755);
        assert_eq!(zfs(Userland::Auto), Path::new("/usr/local/sbin/zfs"));
        assert_eq!(zfs(Userland::Prefix), Path::new(PUBLISHED), "the system's is not used");
    }
}
