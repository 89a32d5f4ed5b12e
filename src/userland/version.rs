//! Reads the OpenZFS version of a program or library from its bytes. So no process is started for
//! it at boot, and root runs nothing of the prefix's owner before publishing.

use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::elf::Elf;
use crate::host::{Host, SBIN};
use crate::store::Layout;

/// How ZFS_META_ALIAS begins (config/zfs-meta.m4). libzfs contains it, and `zfs version` prints it.
const ALIAS: &[u8] = b"\0zfs-";
/// Where a system has libraries (ld.so(8), and Debian's multiarch), first choice first. /usr/local
/// comes last: what somebody once installed there is not what /usr/sbin/zpool is linked with.
const LIBRARIES: [&str; 8] = [
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/lib64",
    "/lib",
    "/usr/local/lib64",
    "/usr/local/lib",
];
/// libzfs with debug information has 2 MB.
const LARGEST: u64 = 256 << 20;

/// The part of an OpenZFS version on which module and programs have to agree: `2.3.2`, or
/// `2.4.0-rc1`. What distributions add (`-2~bpo12+2`) counts their packages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version(String);

impl Version {
    /// Reads `2.3.2-1`, as modinfo(8) says it, or `zfs-2.3.2-1`, as zfs-version(8) does.
    pub fn parse(text: &str) -> Option<Version> {
        let text = text.strip_prefix("zfs-").unwrap_or(text);
        let (number, release) = text.split_once(['-', '_']).unwrap_or((text, ""));
        let parts: Vec<&str> = number.split('.').collect();
        let digits = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if !(2..=4).contains(&parts.len()) || !parts.iter().all(digits) {
            return None;
        }
        let candidate = release.strip_prefix("rc").map(|rest| {
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            format!("-rc{}", &rest[..end])
        });
        Some(Version(format!("{number}{}", candidate.unwrap_or_default())))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether programs and modules of these versions, as they say themselves, may be used together.
pub fn agree(programs: &str, modules: &str) -> bool {
    match (Version::parse(programs), Version::parse(modules)) {
        (Some(programs), Some(modules)) => programs == modules,
        _ => programs == modules,
    }
}

/// What a libzfs says of its version, without `zfs-`: `2.3.2-1`.
pub fn in_bytes(bytes: &[u8]) -> Option<&str> {
    memchr::memmem::find_iter(bytes, ALIAS).find_map(|at| {
        let text = &bytes[at + ALIAS.len()..];
        let text = &text[..memchr::memchr(0, &text[..text.len().min(64)])?];
        let text = std::str::from_utf8(text).ok()?;
        Version::parse(text).map(|_| text)
    })
}

/// The system's own zpool, if it has one. A link to the published one, made for people's PATH, does
/// not count.
pub fn of_host(host: &Host) -> Option<HostZpool> {
    let layout = Layout::new(&host.root);
    let ours = [layout.state(), layout.run()].map(|dir| dir.canonicalize().unwrap_or(dir));
    let own = |path: &PathBuf| {
        path.canonicalize().is_ok_and(|path| !ours.iter().any(|dir| path.starts_with(dir)))
    };
    let program = SBIN.iter().map(|directory| host.path(directory).join("zpool")).find(own)?;
    let version = version_of(host, &program).unwrap_or_else(|error| {
        tracing::warn!("the version of {} is not known: {error:#}", program.display());
        None
    });
    Some(HostZpool { program, version })
}

/// The zpool that a system has of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostZpool {
    /// Where it is.
    pub program: PathBuf,
    /// The version that its libzfs names. None: no version was found.
    pub version: Option<String>,
}

fn version_of(host: &Host, program: &Path) -> Result<Option<String>> {
    let file = File::open(program)?;
    let elf = Elf::open(&file)?;
    let libzfs = elf.and_then(|elf| {
        elf.needed.into_iter().find(|name| name.to_string_lossy().starts_with("libzfs.so"))
    });
    let mut files: Vec<PathBuf> =
        libzfs.iter().flat_map(|name| LIBRARIES.map(|dir| host.path(dir).join(name))).collect();
    // A statically linked zpool contains the version itself.
    files.push(program.to_owned());
    for path in files.iter().filter(|path| path.is_file()) {
        if fs::metadata(path)?.len() <= LARGEST
            && let Some(version) = in_bytes(&fs::read(path)?)
        {
            return Ok(Some(version.to_owned()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_agree_whatever_number_a_distribution_gives_its_package() {
        for (programs, modules, expected) in [
            ("2.3.2-2~bpo12+2", "2.3.2-1", true),
            ("2.3.2", "2.3.2-1", true),
            ("2.3.3-1", "2.3.2-1", false),
            ("2.4.0-rc1", "2.4.0-1", false),
            ("2.4.0-rc1", "2.4.0-rc1", true),
            ("2.4.0-rc1", "2.4.0-rc2", false),
            ("2.4.0-rc11_3", "2.4.0-rc11", true),
            ("unknown", "2.4.0-1", false),
        ] {
            assert_eq!(agree(programs, modules), expected, "{programs} and {modules}");
        }
        for text in ["", "zfs-", "2", "2.x", "kmod-%s", "2.3.2.4.5"] {
            assert_eq!(Version::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_link_to_what_is_published_is_not_the_systems_own_zpool() {
        let dir = tempfile::tempdir().unwrap();
        let host = Host::below(dir.path(), "6.1.0-1-test");
        let tree = Layout::new(&host.root).tree(&host.kernel_release, "key");
        let published = tree.join("userland/sbin/zpool");
        for path in [&published, &host.path("/opt/zpool")] {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "\0zfs-2.3.2-1\0").unwrap();
        }
        fs::create_dir_all(host.path("/run/zfs-prefix")).unwrap();
        fs::create_dir_all(host.path("/usr/local/sbin")).unwrap();
        std::os::unix::fs::symlink(&tree, host.path("/run/zfs-prefix/active")).unwrap();
        let link = host.path("/usr/local/sbin/zpool");
        for (target, expected) in [
            (host.path("/run/zfs-prefix/active/userland/sbin/zpool"), None),
            (published, None),
            (host.path("/run/zfs-prefix/active/none"), None),
            (host.path("/opt/zpool"), Some("2.3.2-1".to_owned())),
        ] {
            drop(fs::remove_file(&link));
            std::os::unix::fs::symlink(&target, &link).unwrap();
            let found = of_host(&host).and_then(|zpool| zpool.version);
            assert_eq!(found, expected, "{}", target.display());
        }
    }

    #[test]
    fn the_version_is_found_among_other_strings() {
        let bytes = b"x\0zfs-kmod-%s\0zfs-2.x\0\0zfs-2.3.2-2~bpo12+2\0zfs-9.9.9\0";
        assert_eq!(in_bytes(bytes), Some("2.3.2-2~bpo12+2"));
        for none in [&b"zfs-2.3.2-1\0"[..], b"\0zfs-2.3.2-1", b"", b"\0zfs-"] {
            assert_eq!(in_bytes(none), None, "{none:?}");
        }
    }
}
