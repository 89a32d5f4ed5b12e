//! Where a build works: `/var/cache/zfs-prefix/build/<release>/`, made by root, given to the
//! prefix's owner, removed by the next build.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::build::command::User;
use crate::kernel::Release;
use crate::store::{Layout, make_dirs};

/// The directories of one build. All but [`WorkDir::top`]'s parents belong to the prefix's owner.
#[derive(Clone, Debug)]
pub struct WorkDir {
    /// The whole; HOME and TMPDIR of the build.
    pub top: PathBuf,
    /// Portage's PORTAGE_TMPDIR, or where the `make` recipe unpacks and compiles.
    pub tmp: PathBuf,
    /// What the build installs into: Portage's ROOT, or INSTALL_MOD_PATH.
    pub root: PathBuf,
}

impl WorkDir {
    /// Empty directories for a build of `release`; what an earlier build left is removed. The
    /// caller holds the build lock.
    ///
    /// # Errors
    /// They cannot be made, or old ones not removed.
    pub fn make(layout: &Layout, release: &Release, owner: User) -> Result<WorkDir> {
        let parent = layout.cache().join("build");
        make_dirs(&parent)?;
        for dir in [layout.cache(), parent.clone()] {
            // Made by an older version or by hand: the owner has to get through.
            fs::set_permissions(&dir, PermissionsExt::from_mode(0o755))
                .with_context(|| format!("{}", dir.display()))?;
        }
        let top = parent.join(release.as_str());
        match fs::remove_dir_all(&top) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(e).with_context(|| format!("{}: cannot be removed", top.display()));
            }
            _ => {}
        }
        let work = WorkDir { tmp: top.join("tmp"), root: top.join("root"), top };
        for dir in [&work.top, &work.tmp, &work.root] {
            own_dir(dir, owner)?;
        }
        Ok(work)
    }

    /// Removes it all.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub fn remove(&self) -> Result<()> {
        fs::remove_dir_all(&self.top)
            .with_context(|| format!("{}: cannot be removed", self.top.display()))
    }
}

fn own_dir(dir: &Path, owner: User) -> Result<()> {
    fs::DirBuilder::new()
        .mode(0o755)
        .create(dir)
        .and_then(|()| std::os::unix::fs::chown(dir, Some(owner.uid), Some(owner.gid)))
        .with_context(|| format!("{}: cannot be made for user {}", dir.display(), owner.uid))
}
