//! The files that a machine can write to ([`State`]), and file system images of trees. Images are
//! made without mounting.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::cache;
use super::root::Root;
use super::tool::run;

/// A private copy of everything outside /usr: /etc, /var, /home. The machine may write to it. A
/// test can boot it natively, read and change it, and make the disks of a virtual machine from it.
#[derive(Debug)]
pub struct State {
    dir: PathBuf,
}

const FSTAB: &str = "/dev/disk/by-id/virtio-root / ext4 rw,noatime 0 0\n\
    /dev/disk/by-id/virtio-usr /usr ext4 ro,noatime 0 0\n";
const FSTAB_VAR: &str = "/dev/disk/by-id/virtio-var /var ext4 rw,noatime 0 0\n";

impl State {
    /// A fresh copy of `root` at `dir`. It replaces old contents.
    pub fn fresh(root: &Root, dir: &Path) -> Result<State> {
        cache::remove(dir)?;
        fs::create_dir_all(dir)?;
        for e in fs::read_dir(&root.dir)? {
            let e = e?;
            if e.file_name() != "usr" {
                run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(e.path()).arg(dir))?;
            }
        }
        // nspawn refuses a directory without os-release. Only then does it mount the real /usr over
        // this one.
        fs::create_dir_all(dir.join("usr/lib"))?;
        fs::copy(root.dir.join("usr/lib/os-release"), dir.join("usr/lib/os-release"))?;
        Ok(State { dir: dir.to_owned() })
    }

    /// A copy of this state at `dir`. It replaces old contents.
    pub fn copy(&self, dir: &Path) -> Result<State> {
        cache::remove(dir)?;
        run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(&self.dir).arg(dir))?;
        Ok(State { dir: dir.to_owned() })
    }

    /// Its root directory. The real /usr is mounted over the one in it.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// `path` (as the machine sees it) inside this state.
    pub fn path(&self, path: &str) -> PathBuf {
        self.dir.join(path.trim_start_matches('/'))
    }

    /// Writes a file as the machine's root, and makes the directories above it.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let to = self.path(path);
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&to, content).with_context(|| to.display().to_string())
    }

    /// Makes `root.ext4` and `var.ext4` in `dir`, and writes the fstab. /var is a mount of its own.
    pub fn disks(&self, dir: &Path) -> Result<StateDisks> {
        self.disks_with(dir, FSTAB_VAR)
    }

    /// The same, but /var is a directory of the root, as on Flatcar; nothing is on `var.ext4`.
    pub fn disks_without_var(&self, dir: &Path) -> Result<StateDisks> {
        self.disks_with(dir, "")
    }

    /// [`State::disks`] with these lines in fstab for /var. Without lines, /var stays on the root.
    fn disks_with(&self, dir: &Path, fstab_var: &str) -> Result<StateDisks> {
        fs::create_dir_all(dir)?;
        let split = dir.join("split");
        cache::remove(&split)?;
        fs::create_dir(&split)?;
        let tree = split.join("root");
        run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(&self.dir).arg(&tree))?;
        let var = split.join("var");
        if fstab_var.is_empty() {
            fs::create_dir(&var)?;
        } else {
            fs::rename(tree.join("var"), &var)?;
            fs::create_dir(tree.join("var"))?;
        }
        fs::write(tree.join("etc/fstab"), format!("{FSTAB}{fstab_var}"))?;
        let disks = StateDisks { root: dir.join("root.ext4"), var: dir.join("var.ext4") };
        ext4(&tree, &disks.root, 2 << 30)?;
        ext4(&var, &disks.var, 2 << 30)?;
        cache::remove(&split)?;
        Ok(disks)
    }
}

/// The images of a [`State`].
#[derive(Clone, Debug)]
pub struct StateDisks {
    /// Everything but /usr and /var.
    pub root: PathBuf,
    /// /var.
    pub var: PathBuf,
}

/// The image of the root's /usr with the files of `staged`. That is a directory which
/// `make install DESTDIR=` has filled.
pub fn usr(root: &Root, staged: Option<&Path>) -> Result<PathBuf> {
    let files = staged.map(cache::tree).transpose()?.unwrap_or_default();
    let inputs = [root.dir.as_os_str().as_encoded_bytes(), &files, include_bytes!("disk.rs")];
    cache::artifact("usr.ext4", &inputs, |to| {
        let tree = to.with_extension("tree");
        cache::remove(&tree)?;
        // Hard links save a copy of 500 MB for 20 files. A staged file replaces the link, and never
        // overwrites the file behind it.
        run(Command::new("cp").arg("-al").arg(root.dir.join("usr")).arg(&tree))?;
        if let Some(staged) = staged {
            let from = staged.join("usr/.");
            run(Command::new("cp").args(["-a", "--remove-destination"]).arg(from).arg(&tree))?;
        }
        ext4(&tree, to, 1 << 30)?;
        cache::remove(&tree)
    })
}

/// An ext4 image of `size` bytes (sparse) with the files of `tree`.
pub fn ext4(tree: &Path, image: &Path, size: u64) -> Result<()> {
    blank(image, size)?;
    let options = ["-q", "-F", "-t", "ext4", "-m", "0", "-d"];
    run(Command::new("mke2fs").args(options).arg(tree).arg(image)).map(drop)
}

/// An empty sparse image, for a pool.
pub fn blank(image: &Path, size: u64) -> Result<()> {
    cache::remove(image)?;
    let file = fs::File::create(image).with_context(|| image.display().to_string())?;
    Ok(file.set_len(size)?)
}
