//! Which `zpool` and `zfs` are run: those that fit the loaded modules.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::host::{Host, SBIN};

/// The programs that were published with the loaded modules. They belong to root, like all of the
/// tree.
const PUBLISHED: &str = "/run/zfs-prefix/active/userland/sbin";

/// Where OpenZFS's programs are, first choice first: the published ones, then the system's.
pub fn directories() -> impl DoubleEndedIterator<Item = &'static str> {
    [PUBLISHED].into_iter().chain(SBIN)
}

/// The program `name` (`zpool`, `zfs`) of `host`; `None`: there is none.
pub fn program(host: &Host, name: &str) -> Option<PathBuf> {
    let executable = |path: &PathBuf| {
        std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    };
    directories().map(|directory| host.path(directory).join(name)).find(executable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_userland_of_the_loaded_modules_comes_before_the_systems() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::below(root.path(), "6.1.0");
        assert_eq!(program(&host, "zpool"), None);
        for directory in directories().rev() {
            let path = host.path(directory).join("zpool");
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "").unwrap();
            assert_ne!(program(&host, "zpool").as_ref(), Some(&path), "not executable");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            assert_eq!(program(&host, "zpool"), Some(path));
        }
        assert_eq!(program(&host, "zfs"), None);
    }
}
