//! A module that is held back: what that means for a build, and how an operator has it loaded all
//! the same.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;

use super::modprobe::{Hold, Modprobe, refusals};
use crate::host::{Host, Release};
use crate::store::{Layout, make_dirs, write_atomic};

/// What says that ZFS is not loaded for kernel `release`, the operator's words first. The kernel's own
/// refusal is known for the running kernel alone.
pub fn holds(host: &Host, release: &Release) -> Vec<Hold> {
    let mut holds = Modprobe::read(host).holds("zfs");
    if *release == host.kernel_release {
        holds.extend(refusals(host, "zfs"));
    }
    holds
}

impl Hold {
    /// Why no build is started by itself, and how to have one.
    pub fn why_not_built(&self) -> String {
        let force = "to build all the same: zfs-prefix build --force";
        if self.by_kernel {
            format!("{}; {force}", self.refusal())
        } else {
            format!("{self}; {force}")
        }
    }

    /// Why it is not loaded, and how to have it loaded.
    pub fn why_not_loaded(&self) -> String {
        if self.by_kernel {
            return self.refusal();
        }
        let needed = Some(&self.module).filter(|name| *name != "zfs");
        let needed = needed.map(|name| format!(", and zfs needs {name}")).unwrap_or_default();
        format!("{self}{needed}; to load it all the same: zfs-prefix load --import")
    }

    fn refusal(&self) -> String {
        format!(
            "{self}, so that the kernel takes no {} in this boot; take it out of there and reboot",
            self.module
        )
    }
}

/// The operator's wish to have a module loaded although it is held back: a file that the next run
/// of zfs-load takes. It goes with this value.
#[derive(Debug)]
pub struct ByHand(PathBuf);

impl ByHand {
    /// Leaves the wish for the next run of zfs-load.
    ///
    /// # Errors
    /// The file cannot be written: not root.
    pub fn ask(host: &Host) -> Result<ByHand> {
        let layout = Layout::new(&host.root);
        make_dirs(&layout.run())?;
        write_atomic(&layout.by_hand(), b"")?;
        Ok(ByHand(layout.by_hand()))
    }

    /// Whether somebody has left it.
    pub(super) fn is_asked(host: &Host) -> bool {
        Layout::new(&host.root).by_hand().exists()
    }

    /// Takes it. Returns whether it was there.
    pub(super) fn take(host: &Host) -> bool {
        fs::remove_file(Layout::new(&host.root).by_hand()).is_ok()
    }
}

impl Drop for ByHand {
    fn drop(&mut self) {
        // It is gone if zfs-load ran.
        let _ = fs::remove_file(&self.0);
    }
}
