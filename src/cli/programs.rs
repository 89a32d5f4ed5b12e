//! Which of OpenZFS's programs are used, and whether they agree with the loaded module.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use crate::host::Host;
use crate::userland::PLACE;
use crate::userland::programs::program;
use crate::userland::version::{agree, of_host};

/// The zpool that the units of this boot run, and the system's own if it is another one.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Programs {
    zpool: PathBuf,
    /// As libzfs says it; null where that is not known.
    zfs_version: Option<String>,
    /// The zpool that somebody who types `zpool` may run, if it does not agree with the module.
    disagreeing: Option<(PathBuf, String)>,
}

impl Programs {
    /// Looks at the machine. `loaded`: the module's version. `published`: the version of the
    /// programs in the tree that is loaded.
    pub(super) fn of(host: &Host, loaded: Option<&str>, published: Option<&str>) -> Option<Self> {
        let zpool = program(host, "zpool")?;
        let own = of_host(host);
        let own_version = own.as_ref().and_then(|own| own.version.clone());
        let zfs_version = if zpool.starts_with(host.path(PLACE)) {
            published.map(str::to_owned)
        } else {
            own_version.clone()
        };
        let disagreeing = own.zip(own_version).zip(loaded).and_then(|((own, version), loaded)| {
            (!agree(&version, loaded)).then_some((own.program, version))
        });
        Some(Programs { zpool, zfs_version, disagreeing })
    }
}

impl fmt::Display for Programs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = self.zfs_version.as_deref().unwrap_or("of unknown version");
        writeln!(f, "   programs: ZFS {version} ({})", self.zpool.display())?;
        if let Some((own, version)) = &self.disagreeing {
            writeln!(
                f,
                "             {} is of version {version}, not the module's: put {PLACE}/sbin first in PATH",
                own.display()
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn programs_of_the_system_that_do_not_agree_with_the_module_are_named() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::below(root.path(), "6.1.0");
        let put = |path: &str| {
            let path = host.path(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "\0zfs-2.1.11-1\0").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        };
        assert_eq!(Programs::of(&host, Some("2.3.2-1"), None), None);
        put("/usr/sbin/zpool");
        let same = Programs::of(&host, Some("2.1.11-1"), None).unwrap().to_string();
        assert!(same.contains("ZFS 2.1.11-1 (") && same.lines().count() == 1, "{same}");
        put("/run/zfs-prefix/active/userland/sbin/zpool");
        let both = Programs::of(&host, Some("2.3.2-1"), Some("2.3.2-1")).unwrap().to_string();
        assert!(both.contains("ZFS 2.3.2-1 ("), "{both}");
        assert!(
            both.contains("/usr/sbin/zpool is of version 2.1.11-1, not the module's"),
            "{both}"
        );
    }
}
