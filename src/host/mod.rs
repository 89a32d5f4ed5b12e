//! The one injected view of the machine. A main makes it and passes it down. This module builds
//! paths of the machine, below [`Host::root`]. tests/layers.rs names the modules that read /proc
//! for another reason.

pub(crate) mod container;
pub(crate) mod files;
pub(crate) mod links;
pub(crate) mod mountinfo;
mod release;

use std::borrow::Cow;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::Context;

pub use release::Release;

/// The directories of a system's own programs for administrators, first choice first.
pub const SBIN: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// proc_cmdline(5).
const KERNEL_CMDLINE: &str = "/proc/cmdline";

/// The facts about this machine that the boot path needs.
#[derive(Clone, Debug)]
pub struct Host {
    /// Where the file system begins: `/`, or a test's temporary directory.
    pub root: PathBuf,
    /// `uname -r`.
    pub kernel_release: Release,
    /// The command line of this boot, which has `zfs_prefix=`: [`Host::read_cmdline`]. Parameters
    /// of the kernel and its modules are in [`Host::kernel_cmdline`].
    pub cmdline: String,
    /// In a container: the kernel is the host's.
    pub container: bool,
    /// In the initrd (systemd.generator(7), `$SYSTEMD_IN_INITRD`).
    pub in_initrd: bool,
}

impl Host {
    /// This machine, for all programs but the generator: systemd tells the generator these facts.
    /// `root` moves every path, for tests. `None` means `/`.
    ///
    /// # Errors
    /// uname(2) failed, or the kernel command line cannot be read.
    pub fn from_machine(root: Option<OsString>) -> anyhow::Result<Host> {
        let mut host = Host {
            root: root.map_or_else(|| PathBuf::from("/"), PathBuf::from),
            kernel_release: Release::running()?,
            cmdline: String::new(),
            container: false,
            in_initrd: false,
        };
        host.container = container::detected(&host.root);
        host.in_initrd = host.path("/etc/initrd-release").exists();
        host.cmdline = host.read_cmdline()?;
        Ok(host)
    }

    /// The command line of this boot. A container has no kernel command line of its own: this takes
    /// the arguments of its PID 1, as systemd does.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read_cmdline(&self) -> anyhow::Result<String> {
        self.words_of(if self.container { "/proc/1/cmdline" } else { KERNEL_CMDLINE })
    }

    /// The command line of the kernel, for parameters of the kernel and of its modules. Also in a
    /// container it is the kernel's own, as for modprobe(8): there it is the host's kernel that
    /// takes a module. Empty if a container hides it.
    pub fn kernel_cmdline(&self) -> Cow<'_, str> {
        if self.container {
            Cow::Owned(self.words_of(KERNEL_CMDLINE).unwrap_or_default())
        } else {
            Cow::Borrowed(&self.cmdline)
        }
    }

    fn words_of(&self, file: &str) -> anyhow::Result<String> {
        let path = self.path(file);
        let bytes =
            std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let text = String::from_utf8_lossy(&bytes);
        Ok(text.trim_end_matches(['\0', '\n']).replace('\0', " "))
    }

    /// The path `absolute` of the machine, below [`Host::root`].
    pub fn path(&self, absolute: impl AsRef<Path>) -> PathBuf {
        let p = absolute.as_ref();
        self.root.join(p.strip_prefix("/").unwrap_or(p))
    }

    /// Writes a file of the machine, for tests.
    #[cfg(test)]
    pub(crate) fn put(&self, path: &str, text: &str) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().expect("a file")).expect("a directory");
        std::fs::write(path, text).expect("a file");
    }

    /// A machine below `root` with this kernel, for tests.
    #[cfg(test)]
    pub(crate) fn below(root: &Path, release: &str) -> Host {
        Host {
            root: root.to_owned(),
            kernel_release: release.parse().expect("a release"),
            cmdline: String::new(),
            container: false,
            in_initrd: false,
        }
    }
}
