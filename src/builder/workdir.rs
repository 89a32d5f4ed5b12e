//! Where a build works: `/var/cache/zfs-prefix/build/<release>/`. Root makes the directory and
//! gives it to the prefix's owner. The next build removes it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::host::Release;
use crate::prefix::owned;
use crate::process::User;
use crate::store::{Layout, make_dirs};

/// The directories of one build. All but [`WorkDir::top`]'s parents belong to the prefix's owner.
#[derive(Clone, Debug)]
pub struct WorkDir {
    /// The work directory itself; HOME and TMPDIR of the build.
    pub top: PathBuf,
    /// Portage's PORTAGE_TMPDIR, or where the `make` recipe unpacks and compiles.
    pub tmp: PathBuf,
    /// What the build installs into: Portage's ROOT, or INSTALL_MOD_PATH.
    pub root: PathBuf,
}

impl WorkDir {
    /// Makes empty directories for a build of `release`, and removes those of an earlier build. The
    /// caller holds the build lock.
    ///
    /// # Errors
    /// They cannot be made, or old ones cannot be removed.
    pub fn make(layout: &Layout, release: &Release, owner: User) -> Result<WorkDir> {
        let parent = layout.cache().join("build");
        make_dirs(&parent)?;
        for dir in [layout.cache(), parent.clone()] {
            // An older version or a person may have made it. The owner has to get through.
            fs::set_permissions(&dir, PermissionsExt::from_mode(0o755))
                .with_context(|| format!("{}", dir.display()))?;
        }
        WorkDir::at(&parent.join(release.as_str()), owner)
    }

    /// Does the same in another place, below root's directories that the owner can pass through.
    ///
    /// # Errors
    /// They cannot be made, or old ones cannot be removed.
    pub fn at(top: &Path, owner: User) -> Result<WorkDir> {
        owned::remove(top)?;
        let top = top.to_owned();
        let work = WorkDir { tmp: top.join("tmp"), root: top.join("root"), top };
        // Make all of them before giving any away: root changes nothing that the owner can rename.
        let dirs = [
            owned::make_dir(&work.top)?,
            owned::make_dir(&work.tmp)?,
            owned::make_dir(&work.root)?,
        ];
        for (dir, path) in dirs.iter().zip([&work.top, &work.tmp, &work.root]).rev() {
            owned::give(dir, owner)
                .with_context(|| format!("{}: cannot be user {}'s", path.display(), owner.uid))?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};

    #[test]
    fn the_directories_are_the_owners_and_a_link_of_an_earlier_build_is_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path());
        let release = "6.1.0-1-test".parse().unwrap();
        let owner = User { uid: 2000, gid: 2001 };
        let victim = root.path().join("victim");
        fs::create_dir(&victim).unwrap();
        let work = WorkDir::make(&layout, &release, owner).unwrap();
        fs::remove_dir(&work.tmp).unwrap();
        symlink(&victim, &work.tmp).unwrap();
        let work = WorkDir::make(&layout, &release, owner).unwrap();
        for dir in [&work.top, &work.tmp, &work.root] {
            let meta = fs::symlink_metadata(dir).unwrap();
            let found = (meta.is_dir(), meta.uid(), meta.gid(), meta.mode() & 0o7777);
            assert_eq!(found, (true, 2000, 2001, 0o755), "{}", dir.display());
        }
        assert_eq!(fs::metadata(&victim).unwrap().uid(), 0, "these tests run as root");
    }
}
