//! The published tree that `current/<release>` names, and its modules, each checked against the
//! manifest before anything is done with it.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};

use super::Ready;
use crate::compress::Compression;
use crate::config::{self, Userland};
use crate::exit::{Exit, WithExit};
use crate::fail;
use crate::host::{Host, Release};
use crate::kernel::gnu_build_id;
use crate::module::{Found, Info, decompress, name_of_path, read_info, read_info_of_file};
use crate::store::{FileEntry, Layout, Manifest, file_digest, key_of_link, trust};
use crate::userland::{self, version};

/// No manifest is larger: 100 bytes a file, some thousand files of userland.
const MANIFEST_MOST: u64 = 16 << 20;

/// An opened tree whose manifest fits the running kernel.
pub(super) struct Tree {
    dir: PathBuf,
    release: Release,
    owner: u32,
    manifest: Manifest,
    /// Directories below `dir` that were found to be the owner's.
    trusted: RefCell<BTreeSet<PathBuf>>,
}

impl Tree {
    /// Opens the tree published for the running kernel. It does not check which programs are used
    /// with its modules.
    pub(super) fn open(host: &Host, owner: u32) -> Result<Tree> {
        let layout = Layout::new(&host.root);
        let release = host.kernel_release.clone();
        let key = current_key(&layout, &release, owner)?;
        let dir = layout.tree(&release, &key);
        for above in [layout.state(), layout.store(), layout.trees(&release)] {
            trust::above(&above, owner)?;
        }
        trust::directory(&dir, owner)?;
        let path = dir.join("manifest.json");
        let (file, size) = trust::file(&path, owner)?;
        if size > MANIFEST_MOST {
            fail!(Exit::Refused, "{} has {size} bytes: no manifest is so large", path.display());
        }
        let bytes = read_all(&file).with_context(|| format!("{}", path.display()))?;
        let manifest = Manifest::parse(&bytes)
            .with_context(|| {
                format!("{} cannot be read; build anew: systemctl start zfs-build", path.display())
            })
            .exit(Exit::Refused)?;
        if manifest.kernel_release != release || manifest.key != key {
            fail!(
                Exit::Refused,
                "{} is of kernel {} and key {}, not of the directory it stands in; build anew: systemctl start zfs-build",
                path.display(),
                manifest.kernel_release,
                manifest.key
            );
        }
        same_kernel(host, &manifest)?;
        Ok(Tree { dir, release, owner, manifest, trusted: RefCell::default() })
    }

    pub(super) fn key(&self) -> &str {
        &self.manifest.key
    }

    /// The version of its modules, as `modinfo -F version` prints it.
    pub(super) fn version(&self) -> &str {
        &self.manifest.zfs_version
    }

    /// Refuses programs of one version with modules of another: what they tell each other may mean
    /// something else. The programs published with the modules are used; if there are none, the
    /// system's. With `zfs.userland = "host"`, the system's are used in any case.
    pub(super) fn check_version(&self, host: &Host) -> Result<()> {
        let modules = &self.manifest.zfs_version;
        let Some((whose, programs)) = self.programs(host) else { return Ok(()) };
        if !version::agree(&programs, modules) {
            fail!(
                Exit::Refused,
                "the ZFS modules published for kernel {} are of version {modules}, {whose} of version {programs}; nothing was loaded; build anew: systemctl start zfs-build (zfs.userland says whose programs are used)",
                self.release
            );
        }
        Ok(())
    }

    /// The programs that are to be used with the modules, and their version. The system's libzfs is
    /// read only if the system's programs are used: otherwise every boot would pay for it.
    fn programs(&self, host: &Host) -> Option<(String, String)> {
        let published = self.manifest.userland_version.as_ref();
        if published.is_none() || config::load(host).settings.zfs.userland == Userland::Host {
            let own = version::of_host(host)
                .and_then(|zpool| Some((zpool.program, zpool.version?)))
                .map(|(program, own)| (format!("the system's own {}", program.display()), own));
            if own.is_some() {
                return own;
            }
        }
        Some(("the programs published with them".to_owned(), published?.clone()))
    }

    /// Checks that root's programs are there as they were published, and that only root can write
    /// to them. Their contents are not read: that is for `zfs-build` and `zfs-prefix list`.
    pub(super) fn check_programs(&self) -> Result<()> {
        let prefix = format!("{}/", userland::DIR);
        for entry in self.manifest.files.iter().filter(|f| f.path.starts_with(&prefix)) {
            let path = self.trusted_path(&entry.path)?;
            let (file, size) = trust::file(&path, self.owner)?;
            let mode = file.metadata().with_context(|| format!("{}", path.display()))?.mode();
            if size != entry.size || (entry.executable && mode & 0o111 == 0) {
                fail!(
                    Exit::Refused,
                    "{} is damaged: {size} bytes, mode {:04o}, instead of the published {} bytes, mode {}; nothing was loaded; build anew: systemctl start zfs-build",
                    path.display(),
                    mode & 0o7777,
                    entry.size,
                    if entry.executable { "0755" } else { "0644" }
                );
            }
        }
        Ok(())
    }

    pub(super) fn modules_dir(&self) -> PathBuf {
        self.dir.join("lib/modules").join(self.release.as_str())
    }

    /// The tree's module `name`, read and checked; `None` when the manifest has none.
    pub(super) fn find(&self, name: &str) -> Result<Option<Found<Ready>>> {
        let prefix = format!("lib/modules/{}/", self.release);
        let mut entries = self.manifest.files.iter().filter(|f| {
            f.path.starts_with(&prefix) && name_of_path(&f.path).as_deref() == Some(name)
        });
        let Some(entry) = entries.next() else { return Ok(None) };
        if let Some(other) = entries.next() {
            fail!(
                Exit::Refused,
                "{}: two files for module {name}: {} and {}",
                self.dir.display(),
                entry.path,
                other.path
            );
        }
        self.open_module(entry).map(Some)
    }

    fn open_module(&self, entry: &FileEntry) -> Result<Found<Ready>> {
        let path = self.trusted_path(&entry.path)?;
        let (file, size) = trust::file(&path, self.owner)?;
        let shown = || format!("{}", path.display());
        // A buffer at a time: 9 MB in one piece cost more in page faults than in reading.
        let (found, read) =
            file_digest((&file).take(entry.size.saturating_add(1))).with_context(shown)?;
        if size != entry.size || read != entry.size || found != entry.blake2b {
            fail!(
                Exit::Refused,
                "{} is damaged: {size} bytes with BLAKE2b digest {}, instead of the published {} bytes with {}; nothing was loaded; build anew: systemctl start zfs-build",
                path.display(),
                found.as_str(),
                entry.size,
                entry.blake2b.as_str()
            );
        }
        let (info, bytes) = read_module(&path, &file).with_context(shown).exit(Exit::Refused)?;
        let built_for = info.vermagic().map_or("none", |v| v.release);
        if built_for != self.release.as_str() {
            fail!(
                Exit::Refused,
                "{} was built for kernel {built_for}, this is {}; nothing was loaded; build anew: zfs-prefix build --force",
                path.display(),
                self.release
            );
        }
        let ready = Ready { path, file, bytes, published: true };
        Ok(Found::File(ready, info.depends()))
    }

    /// The absolute path of a manifest's entry, every directory on the way checked.
    fn trusted_path(&self, relative: &str) -> Result<PathBuf> {
        let relative = Path::new(relative);
        if !relative.components().all(|c| matches!(c, Component::Normal(_))) {
            fail!(Exit::Refused, "{}: the manifest names {relative:?}", self.dir.display());
        }
        let mut parents: Vec<&Path> = relative.ancestors().skip(1).collect();
        parents.reverse();
        for parent in parents.into_iter().skip(1) {
            let dir = self.dir.join(parent);
            let mut trusted = self.trusted.borrow_mut();
            if !trusted.contains(&dir) {
                trust::directory(&dir, self.owner)?;
                trusted.insert(dir);
            }
        }
        Ok(self.dir.join(relative))
    }
}

/// The key `current/<release>` names. The link must lead straight to
/// `store/<release>/<key>`, in relative or absolute words.
fn current_key(layout: &Layout, release: &Release, owner: u32) -> Result<String> {
    let link = layout.current(release);
    let target = match fs::read_link(&link) {
        Ok(target) => target,
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => fail!(
            Exit::NothingPublished,
            "no ZFS modules are published for kernel {release}; zfs-build builds them: systemctl start zfs-build"
        ),
        Err(e) if e.kind() == ErrorKind::InvalidInput => {
            let link = link.display();
            fail!(
                Exit::Refused,
                "{link} is not a symlink; nothing is loaded; remove it, and then: systemctl start zfs-build"
            )
        }
        Err(e) => return Err(e).with_context(|| format!("{}", link.display())),
    };
    trust::above(&layout.state(), owner)?;
    trust::above(&layout.current_dir(), owner)?;
    trust::link(&link, owner)?;
    match key_of_link(layout, release, &target) {
        Some(key) => Ok(key),
        None => fail!(
            Exit::Refused,
            "{} points to {}, not to a tree in {}; nothing is loaded; build anew: systemctl start zfs-build",
            link.display(),
            target.display(),
            Layout::new(Path::new("/")).trees(release).display()
        ),
    }
}

/// `.modinfo`, and the decompressed bytes of a module that is compressed.
fn read_module(path: &Path, mut file: &File) -> Result<(Info, Option<Vec<u8>>)> {
    let mut magic = [0; 6];
    file.rewind()?;
    let n = file.read(&mut magic)?;
    if Compression::of(&magic[..n]).is_none() {
        return Ok((read_info_of_file(file)?, None));
    }
    let plain = decompress(path, read_all(file)?)?;
    Ok((read_info(&plain)?, Some(plain)))
}

fn read_all(mut file: &File) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Two kernels of one release can differ; their build-ids do.
fn same_kernel(host: &Host, manifest: &Manifest) -> Result<()> {
    let path = host.path("/sys/kernel/notes");
    let notes = fs::read(&path)
        .with_context(|| format!("{}: cannot tell which kernel runs", path.display()))?;
    let running = gnu_build_id(&notes).unwrap_or_else(|| "none".to_owned());
    if running != manifest.kernel_build_id {
        fail!(
            Exit::NothingPublished,
            "no ZFS modules are published for this kernel {}: it has build-id {running}, the published ones are for {}; zfs-build builds them: systemctl start zfs-build",
            manifest.kernel_release,
            manifest.kernel_build_id
        );
    }
    Ok(())
}
