//! OpenZFS's programs, if the system has none that fit the modules. They are compiled in the
//! prefix, with every library they need. Root publishes them beside the modules. Root runs only
//! root's own files: interpreter, libraries and scripts are those of the published tree, or the
//! system's.

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

/// Where the userland is while its modules are loaded. Every path that is compiled into it leads
/// here.
pub const PLACE: &str = "/run/zfs-prefix/active/userland";
/// Its directory in a published tree, and below the directory that a build installs into.
pub const DIR: &str = "userland";
/// The directory of all its libraries; there are none elsewhere.
const LIBRARIES: &str = "lib";

/// DT_RPATH of a program at `path` below [`DIR`]: from its own directory to the libraries. It is
/// not DT_RUNPATH, because libraries inherit DT_RPATH. So does dlopen(3), with which libc loads
/// libgcc_s for pthread_cancel(3).
fn run_path(path: &Path) -> PathBuf {
    let depth = path.parent().map_or(0, |dir| dir.components().count());
    let up = "/..".repeat(depth);
    PathBuf::from(format!("$ORIGIN{up}/{LIBRARIES}"))
}

/// The ELF interpreter called `name`, as its programs name it.
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
