//! The one injected view of the machine. Made in a main, passed down; nothing else reads /proc,
//! the environment, or an absolute path that was not put together here.

use std::path::{Path, PathBuf};

use crate::kernel::Release;

/// What this machine is, as far as the boot path has to know.
#[derive(Clone, Debug)]
pub struct Host {
    /// Where the file system begins: `/`, or a test's temporary directory.
    pub root: PathBuf,
    /// `uname -r`.
    pub kernel_release: Release,
    /// The kernel command line; in a container the command line of its PID 1, as systemd does it.
    pub cmdline: String,
    /// In a container: the kernel is somebody else's.
    pub container: bool,
    /// In the initrd (systemd.generator(7), `$SYSTEMD_IN_INITRD`).
    pub in_initrd: bool,
}

impl Host {
    /// The path `absolute` of the machine, below [`Host::root`].
    pub fn path(&self, absolute: impl AsRef<Path>) -> PathBuf {
        let p = absolute.as_ref();
        self.root.join(p.strip_prefix("/").unwrap_or(p))
    }
}
