//! Which parts of OpenZFS the system itself has, at boot, before anything is loaded.

use std::fs::Metadata;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::config::Userland;
use crate::host::files::Files;
use crate::host::links::{End, Way};
use crate::host::{Host, SBIN};

/// The directories of systemd.generator(7), first choice first. The last one is for systems whose
/// /lib is a directory of its own.
const GENERATORS: [&str; 5] = [
    "/run/systemd/system-generators",
    "/etc/systemd/system-generators",
    "/usr/local/lib/systemd/system-generators",
    "/usr/lib/systemd/system-generators",
    "/lib/systemd/system-generators",
];
const MOUNT_GENERATOR: &str = "zfs-mount-generator";
/// The zfs(8) that was published with the loaded modules.
const PUBLISHED: &str = "/run/zfs-prefix/active/userland/sbin/zfs";
/// As in units/dropins: where units look for programs on a system that has its own.
const SEARCH: &str = "/run/zfs-prefix/active/userland/sbin:/run/zfs-prefix/active/userland/bin:\
    /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The zfs-mount-generator(8) that systemd runs on this system, or that somebody masked; `None`:
/// this generator reads the lists.
pub(super) fn mount_generator(host: &Host) -> Option<PathBuf> {
    for directory in GENERATORS {
        let path = Path::new(directory).join(MOUNT_GENERATOR);
        let Some((target, meta)) = resolved(host, &path) else { continue };
        let masked = target == Path::new("/dev/null") || (meta.is_file() && meta.len() == 0);
        if masked || runs(&meta) {
            return Some(path);
        }
    }
    None
}

/// Links of that name to what is published with the modules, and where they lead. Such a link is no
/// generator at boot, but it is one at each daemon-reload.
pub(super) fn links_to_a_generator(host: &Host) -> Vec<(PathBuf, PathBuf)> {
    let files = Files::before_var(host);
    let mut links = Vec::new();
    for directory in GENERATORS {
        let path = Path::new(directory).join(MOUNT_GENERATOR);
        // A directory that is itself there only later may have one: that is not known now.
        let reached = matches!(files.way(Path::new(directory)).end, End::Here(_));
        if let (true, Way { path: target, end: End::Later }) = (reached, files.way(&path)) {
            links.push((path, target));
        }
    }
    links
}

/// How units call zfs(8).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Zfs {
    pub(super) command: PathBuf,
    /// ExecSearchPath=, for a command without a path.
    pub(super) search: Option<&'static str>,
}

/// How units call zfs(8) with the configured `zfs.userland`. On a system that has its own zfs, they
/// look for it as that system's units do. A published zfs is of the modules' version, and exists
/// only if the system's own is not of that version.
pub(super) fn zfs(host: &Host, userland: Userland) -> Zfs {
    let own = own_program(host, "zfs");
    match (own, userland) {
        (None, _) => Zfs { command: PathBuf::from(PUBLISHED), search: None },
        (Some(own), Userland::Host) => Zfs { command: own, search: None },
        (Some(_), _) => Zfs { command: PathBuf::from("zfs"), search: Some(SEARCH) },
    }
}

/// The system's own program of this name, which may be of another version than the modules.
pub(super) fn own_program(host: &Host, name: &str) -> Option<PathBuf> {
    let mut paths = SBIN.iter().map(|directory| Path::new(directory).join(name));
    paths.find(|path| resolved(host, path).is_some_and(|(_, meta)| runs(&meta)))
}

fn runs(meta: &Metadata) -> bool {
    meta.is_file() && meta.permissions().mode() & 0o111 != 0
}

/// Where `path` leads in the end, after all links at it and on the way to it, and what is there.
fn resolved(host: &Host, path: &Path) -> Option<(PathBuf, Metadata)> {
    match Files::before_var(host).way(path) {
        Way { path, end: End::Here(meta) } => Some((path, meta)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn put(host: &Host, path: &str, text: &str, mode: u32) {
        host.put(path, text);
        fs::set_permissions(host.path(path), fs::Permissions::from_mode(mode)).unwrap();
    }

    /// A generator that is a link of this content; everything else it could lead to is there.
    fn linked(target: &str) -> Option<PathBuf> {
        let root = tempfile::tempdir().unwrap();
        let host = crate::generator::tests::host(root.path());
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
        let later: Vec<_> = links_to_a_generator(&host).into_iter().map(|(_, to)| to).collect();
        let expected = ["/opt/on", "/run", "../../../../run", "/var"];
        let is_later = expected.iter().any(|start| target.starts_with(start));
        assert_eq!(later.len(), usize::from(is_later), "{target}: {later:?}");
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
            let host = crate::generator::tests::host(root.path());
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
    fn zfs_is_looked_for_as_by_the_systems_units_or_is_the_one_published_with_the_modules() {
        let root = tempfile::tempdir().unwrap();
        let host = crate::generator::tests::host(root.path());
        let zfs = |userland| super::zfs(&host, userland);
        let published = || Zfs { command: PathBuf::from(PUBLISHED), search: None };
        assert_eq!(zfs(Userland::Auto), published());
        put(&host, PUBLISHED, "x", 0o755);
        fs::create_dir_all(host.path("/usr/sbin")).unwrap();
        symlink(PUBLISHED, host.path("/usr/sbin/zfs")).unwrap();
        assert_eq!(zfs(Userland::Auto), published(), "a link of install-openzfs");
        put(&host, "/usr/local/sbin/zfs", "x", 0o755);
        for userland in [Userland::Auto, Userland::Prefix] {
            let searched = Zfs { command: PathBuf::from("zfs"), search: Some(SEARCH) };
            assert_eq!(zfs(userland), searched, "{userland:?}");
        }
        let own = Zfs { command: PathBuf::from("/usr/local/sbin/zfs"), search: None };
        assert_eq!(zfs(Userland::Host), own);
        let drop_in =
            include_str!("../../units/dropins/zfs-mount.service.d/51-zfs-prefix-programs.conf");
        assert!(drop_in.contains(&format!("\nExecSearchPath={SEARCH}\n")), "{drop_in}");
    }

    /// Fedora CoreOS: /usr/local is a link into /var, which may not be mounted at boot.
    #[test]
    fn a_directory_that_is_a_link_into_var_is_empty_whatever_is_in_it() {
        let root = tempfile::tempdir().unwrap();
        let host = crate::generator::tests::host(root.path());
        put(&host, "/var/usrlocal/sbin/zfs", "x", 0o755);
        put(&host, "/var/usrlocal/lib/systemd/system-generators/zfs-mount-generator", "x", 0o755);
        fs::create_dir_all(host.path("/usr")).unwrap();
        symlink("../var/usrlocal", host.path("/usr/local")).unwrap();
        assert_eq!(own_program(&host, "zfs"), None);
        assert_eq!(mount_generator(&host), None);
        assert_eq!(links_to_a_generator(&host), []);
    }
}
