//! Publishing. One rename(2) makes a staging tree beside its future place `store/<release>/<key>`.
//! Another one switches `current/<release>` to it. Everything is on disk before it gets its name,
//! so that power may fail at any point.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use walkdir::WalkDir;

use super::{Layout, Manifest, check_tree};
use crate::host::Release;

/// How the names of staging directories begin. The next build removes what a crash leaves of one.
const STAGING: &str = ".staging-";

/// Makes `dir` and its parents, mode 0755, below the store's root.
///
/// # Errors
/// A directory cannot be made, or something else has its name.
pub fn make_dirs(dir: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(dir)
        .with_context(|| format!("{}: cannot make the directory", dir.display()))
}

/// Flushes a directory's entries to disk (fsync(2) on the directory).
///
/// # Errors
/// The directory cannot be opened or flushed.
pub fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir)
        .and_then(|d| d.sync_all())
        .with_context(|| format!("{}: cannot flush the directory", dir.display()))
}

/// Writes a file that others read: to a temporary name in the same directory, flushed, renamed,
/// the directory flushed. Mode 0644.
///
/// # Errors
/// Any step failed; `path` is then as it was before.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let dir = path.parent().context("a file path without a directory")?;
    let write = || -> std::io::Result<()> {
        let mut tmp = tempfile::Builder::new()
            .prefix(".tmp-")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .tempfile_in(dir)?;
        tmp.write_all(bytes)?;
        tmp.as_file().sync_all()?;
        tmp.persist(path).map_err(|e| e.error)?;
        File::open(dir)?.sync_all()
    };
    write().with_context(|| format!("{}: cannot write the file", path.display()))
}

/// Makes or switches a symlink in one step, so that a reader sees the old or the new target.
///
/// # Errors
/// Any step failed; `link` is then as it was before.
pub fn switch_link(link: &Path, target: &Path) -> Result<()> {
    let dir = link.parent().context("a link path without a directory")?;
    let name = link.file_name().context("a link path without a name")?.to_string_lossy();
    let tmp = dir.join(format!(".tmp-{name}-{}", std::process::id()));
    let switch = || -> std::io::Result<()> {
        match fs::remove_file(&tmp) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        symlink(target, &tmp)?;
        fs::rename(&tmp, link).inspect_err(|_| drop(fs::remove_file(&tmp)))?;
        File::open(dir)?.sync_all()
    };
    switch().with_context(|| format!("{}: cannot point it to {}", link.display(), target.display()))
}

/// A tree being put together in `store/<release>/.staging-…`. Dropped without
/// [`Staging::publish`], it is removed.
#[derive(Debug)]
pub struct Staging {
    dir: PathBuf,
    release: Release,
    layout: Layout,
}

impl Staging {
    /// A new, empty staging tree for `release`. Leftovers of earlier, killed builds are removed:
    /// the caller holds the build lock.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn new(layout: &Layout, release: &Release) -> Result<Staging> {
        let trees = layout.trees(release);
        make_dirs(&trees)?;
        remove_leftovers(&trees)?;
        let dir = trees.join(format!("{STAGING}{}", std::process::id()));
        fs::DirBuilder::new()
            .mode(0o755)
            .create(&dir)
            .with_context(|| format!("{}: cannot make the directory", dir.display()))?;
        Ok(Staging { dir, release: release.clone(), layout: layout.clone() })
    }

    /// The tree's directory while it is being made.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A new file in the staging tree (O_EXCL, mode 0644), its directories made.
    ///
    /// # Errors
    /// It exists already or cannot be made.
    pub fn create(&self, relative: &Path) -> Result<File> {
        self.create_with(relative, 0o644)
    }

    /// The same for a program: mode 0755, whatever the umask is.
    ///
    /// # Errors
    /// As [`Staging::create`].
    pub fn create_program(&self, relative: &Path) -> Result<File> {
        let file = self.create_with(relative, 0o755)?;
        file.set_permissions(fs::Permissions::from_mode(0o755))
            .with_context(|| format!("{}", self.dir.join(relative).display()))?;
        Ok(file)
    }

    fn create_with(&self, relative: &Path, mode: u32) -> Result<File> {
        let path = self.dir.join(relative);
        make_dirs(path.parent().unwrap_or(&self.dir))?;
        fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&path)
            .with_context(|| format!("{}: cannot create the file", path.display()))
    }

    /// Writes `manifest.json`, flushes everything, gives the tree its name `<key>` and switches
    /// `current/<release>` to it. If a tree of this key exists (it is damaged, or the build is
    /// forced), it changes places with the new one and is removed.
    ///
    /// # Errors
    /// Any step failed. The store is then as it was before, unless only the last step is missing:
    /// the tree is published, but `current` still points to the old one. The next build finishes
    /// that.
    pub fn publish(self, manifest: &Manifest) -> Result<PathBuf> {
        let json = serde_json::to_vec_pretty(manifest)?;
        self.create(Path::new("manifest.json"))?
            .write_all(&json)
            .with_context(|| format!("{}/manifest.json", self.dir.display()))?;
        sync_tree(&self.dir)?;
        check_tree(&self.dir).context("the staged tree does not read back as written")?;
        let target = self.layout.tree(&self.release, &manifest.key);
        put_in_place(&self.dir, &target).with_context(|| {
            format!("{}: cannot be renamed to {}", self.dir.display(), target.display())
        })?;
        // Flush the tree's own name, and those of the directories made for it on the way.
        for dir in [self.layout.trees(&self.release), self.layout.store(), self.layout.state()] {
            sync_dir(&dir)?;
        }
        set_current(&self.layout, &self.release, &manifest.key)?;
        Ok(target)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // After a successful rename there is nothing here; what cannot be removed now is removed
        // by the next build.
        drop(fs::remove_dir_all(&self.dir));
    }
}

/// Points `current/<release>` to the published tree `key` (a relative link).
///
/// # Errors
/// The link cannot be switched.
pub fn set_current(layout: &Layout, release: &Release, key: &str) -> Result<()> {
    make_dirs(&layout.current_dir())?;
    switch_link(&layout.current(release), &Path::new("../store").join(release.as_str()).join(key))
}

/// The key that `target`, the text of a `current/<release>` link, names. The link must lead
/// straight to `store/<release>/<key>`, as a relative or an absolute path. Builder and loader both
/// ask this.
pub fn key_of_link(layout: &Layout, release: &Release, target: &Path) -> Option<String> {
    let machine = Layout::new(Path::new("/"));
    let relative = Path::new("../store").join(release.as_str());
    let homes = [relative, machine.trees(release), layout.trees(release)];
    // Compared component by component, not resolved: `..` and links inside the target lead
    // elsewhere.
    let key = homes.iter().find_map(|home| target.strip_prefix(home).ok())?.to_str()?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let good = !key.is_empty() && !key.starts_with('.') && key.chars().all(plain);
    good.then(|| key.to_owned())
}

/// Whether `current/<release>` points to the tree `key`, and is `owner`'s: the loader takes no
/// other.
pub fn is_current(layout: &Layout, release: &Release, key: &str, owner: u32) -> bool {
    let link = layout.current(release);
    let is_owners = fs::symlink_metadata(&link).is_ok_and(|meta| meta.uid() == owner);
    is_owners && current_key(layout, release).as_deref() == Some(key)
}

/// The key `current/<release>` points to, if it is a link into the store.
pub fn current_key(layout: &Layout, release: &Release) -> Option<String> {
    key_of_link(layout, release, &fs::read_link(layout.current(release)).ok()?)
}

/// Gives `staged` the name `target`. If `target` exists, the two exchange their names in one step
/// (RENAME_EXCHANGE, renameat2(2)), so that `target` exists at all times.
pub(crate) fn put_in_place(staged: &Path, target: &Path) -> std::io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    if fs::symlink_metadata(target).is_err() {
        return fs::rename(staged, target);
    }
    Ok(renameat_with(CWD, staged, CWD, target, RenameFlags::EXCHANGE)?)
}

fn remove_leftovers(trees: &Path) -> Result<()> {
    let entries = fs::read_dir(trees).with_context(|| format!("{}", trees.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("{}", trees.display()))?;
        if entry.file_name().to_string_lossy().starts_with(STAGING) {
            let path = entry.path();
            fs::remove_dir_all(&path)
                .with_context(|| format!("{}: cannot be removed", path.display()))?;
        }
    }
    Ok(())
}

fn sync_tree(dir: &Path) -> Result<()> {
    for entry in WalkDir::new(dir).min_depth(1).contents_first(true) {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type().is_dir() {
            sync_dir(path)?;
        } else {
            File::open(path)
                .and_then(|f| f.sync_all())
                .with_context(|| format!("{}: cannot flush the file", path.display()))?;
        }
    }
    sync_dir(dir)
}
