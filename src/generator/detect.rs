//! What machine the generator runs on, from its environment and a few files in /proc and /run.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::host::{Host, Release, container};

/// The variables a generator is given (systemd.generator(7), "Environment"); read in main.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// `$ZFS_PREFIX_ROOT`: where the file system begins, for tests; `/` when unset.
    pub root: Option<OsString>,
    /// `$SYSTEMD_IN_INITRD`, since systemd 251.
    pub in_initrd: Option<OsString>,
    /// `$SYSTEMD_VIRTUALIZATION`, since systemd 251: unset where there is none.
    pub virtualization: Option<OsString>,
    /// `$SYSTEMD_ARCHITECTURE`, since systemd 251: set always.
    pub architecture: Option<OsString>,
    /// `$SYSTEMD_PROC_CMDLINE`: used instead of /proc/cmdline, as systemd itself does.
    pub proc_cmdline: Option<OsString>,
}

impl Environment {
    /// The path `absolute` below the root.
    pub(super) fn path(&self, absolute: &str) -> PathBuf {
        let root = self.root.as_deref().unwrap_or(OsStr::new("/"));
        Path::new(root).join(absolute.trim_start_matches('/'))
    }
}

/// Looks at the machine.
///
/// # Errors
/// The kernel command line cannot be read, or uname(2) failed.
pub(super) fn host(environment: &Environment) -> anyhow::Result<Host> {
    let container = container(environment);
    let in_initrd = match &environment.in_initrd {
        Some(value) => value == "1",
        None => environment.path("/etc/initrd-release").exists(),
    };
    let mut host = Host {
        root: environment.path("/"),
        kernel_release: Release::running()?,
        cmdline: String::new(),
        container,
        in_initrd,
    };
    host.cmdline = match &environment.proc_cmdline {
        Some(line) => line.to_string_lossy().into_owned(),
        None => host.read_cmdline()?,
    };
    Ok(host)
}

/// What systemd says, with one exception: it takes `/.dockerenv` for a container whatever else it
/// finds (detect_container_files(), src/basic/virt.c), and images are made from containers.
fn container(environment: &Environment) -> bool {
    let root = environment.path("/");
    if let Some(virtualization) = &environment.virtualization {
        return match virtualization.as_bytes() {
            b"container:docker" => container::detected(&root),
            other => other.starts_with(b"container:"),
        };
    }
    // systemd 251 or newer would have set `$SYSTEMD_VIRTUALIZATION`.
    environment.architecture.is_none() && container::detected(&root)
}
