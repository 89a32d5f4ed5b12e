//! OpenZFS's programs, where the system has none that fit the modules: compiled in the prefix, with
//! every library they need, and published by root beside the modules. What root runs of it is
//! root's own: interpreter, libraries and scripts are those of the published tree, or the system's.

pub(crate) mod bind;
pub mod choice;
pub(crate) mod harvest;
pub mod programs;
pub(crate) mod select;
pub(crate) mod symbols;
mod verify;
pub mod version;

use std::path::{Path, PathBuf};

pub use verify::verify;

/// Where it is found when its modules are loaded, by every path that is compiled into it.
pub const PLACE: &str = "/run/zfs-prefix/active/userland";
/// Where it is in a published tree, and below what a build installs into.
pub const DIR: &str = "userland";
/// Its libraries, in one directory; none elsewhere.
const LIBRARIES: &str = "lib";

/// DT_RPATH of a program at `path` below [`DIR`]: from its own directory to the libraries. Not
/// DT_RUNPATH: libraries inherit DT_RPATH, and so does dlopen(3), by which libc gets libgcc_s for
/// pthread_cancel(3).
fn run_path(path: &Path) -> PathBuf {
    let depth = path.parent().map_or(0, |dir| dir.components().count());
    let up = "/..".repeat(depth);
    PathBuf::from(format!("$ORIGIN{up}/{LIBRARIES}"))
}

/// The ELF interpreter of its programs, of that name.
fn interpreter(name: &std::ffi::OsStr) -> PathBuf {
    Path::new(PLACE).join(LIBRARIES).join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_run_path_leads_from_each_directory_to_the_libraries() {
        for (path, expected) in [
            ("sbin/zpool", "$ORIGIN/../lib"),
            ("libexec/zfs/zpool_influxdb", "$ORIGIN/../../lib"),
            ("lib/systemd/system-generators/zfs-mount-generator", "$ORIGIN/../../../lib"),
        ] {
            assert_eq!(run_path(Path::new(path)), Path::new(expected), "{path}");
        }
    }
}
