//! Where things are on disk; the table "On disk" of the architecture.

use std::path::{Path, PathBuf};

use crate::host::Release;

/// The directories of the store, below one root directory.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The layout below `root` (`/` on a machine).
    pub fn new(root: &Path) -> Layout {
        Layout { root: root.to_owned() }
    }

    /// `/var/lib/zfs-prefix`
    pub fn state(&self) -> PathBuf {
        self.root.join("var/lib/zfs-prefix")
    }

    /// `/var/lib/zfs-prefix/store`
    pub fn store(&self) -> PathBuf {
        self.state().join("store")
    }

    /// `/var/lib/zfs-prefix/store/<release>`
    pub fn trees(&self, release: &Release) -> PathBuf {
        self.store().join(release.as_str())
    }

    /// `/var/lib/zfs-prefix/store/<release>/<key>`
    pub fn tree(&self, release: &Release, key: &str) -> PathBuf {
        self.trees(release).join(key)
    }

    /// `/var/lib/zfs-prefix/current`
    pub fn current_dir(&self) -> PathBuf {
        self.state().join("current")
    }

    /// `/var/lib/zfs-prefix/current/<release>`, a symlink to the tree to load.
    pub fn current(&self, release: &Release) -> PathBuf {
        self.current_dir().join(release.as_str())
    }

    /// `/var/lib/zfs-prefix/failures/<release>.json`
    pub fn failure(&self, release: &Release) -> PathBuf {
        self.state().join("failures").join(format!("{release}.json"))
    }

    /// `/var/cache/zfs-prefix`; may be deleted at any time.
    pub fn cache(&self) -> PathBuf {
        self.root.join("var/cache/zfs-prefix")
    }

    /// `/run/zfs-prefix`
    pub fn run(&self) -> PathBuf {
        self.root.join("run/zfs-prefix")
    }

    /// `/run/zfs-prefix/lock`, created once and never renamed.
    pub fn lock(&self) -> PathBuf {
        self.run().join("lock")
    }

    /// `/run/zfs-prefix/provision.lock`, as [`Layout::lock`].
    pub fn provision_lock(&self) -> PathBuf {
        self.run().join("provision.lock")
    }

    /// `/run/zfs-prefix/late.lock`, as [`Layout::lock`].
    pub fn late_lock(&self) -> PathBuf {
        self.run().join("late.lock")
    }

    /// `/run/zfs-prefix/force-<release>`: the next build of it is to be forced.
    pub fn force(&self, release: &Release) -> PathBuf {
        self.run().join(format!("force-{release}"))
    }

    /// `/run/zfs-prefix/load-by-hand`: the next run of zfs-load loads a module that modprobe.d(5)
    /// holds back. `zfs-prefix load` leaves this file, and the run removes it.
    pub fn by_hand(&self) -> PathBuf {
        self.run().join("load-by-hand")
    }

    /// `/run/zfs-prefix/published`: the last build for the running kernel ended well. It published
    /// a tree, or found one that was published and not loaded. zfs-load-late.service runs only if
    /// this file exists. The file is removed when the module is loaded, so that a load that failed
    /// can be tried again.
    pub fn published(&self) -> PathBuf {
        self.run().join("published")
    }

    /// [`Layout::mounts_refused`], as units name it.
    pub const MOUNTS_REFUSED: &str = "/run/zfs-prefix/mounts-refused";

    /// `/run/zfs-prefix/mounts-refused`: the datasets that a late import left unmounted, one per
    /// line. While this file exists, the condition of zfs-mount.service skips it, and the mount
    /// units of these datasets fail by an assertion.
    pub fn mounts_refused(&self) -> PathBuf {
        self.run().join("mounts-refused")
    }

    /// `/run/zfs-prefix/shares-refused`: some of these datasets are shared, and sharing would mount
    /// them. While this file exists, zfs-share.service is skipped.
    pub fn shares_refused(&self) -> PathBuf {
        self.run().join("shares-refused")
    }

    /// `/run/zfs-prefix/active`, a symlink to the tree whose modules are loaded.
    pub fn active(&self) -> PathBuf {
        self.run().join("active")
    }
}
