//! The tree on disk while it is unpacked. openat2(2) looks up every path from the tree's own
//! directory and follows no symlink. So symlinks of the archive lead nowhere here.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open, openat, openat2};
use nix::sys::stat::{
    FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, fstatat, futimens, mkdirat,
    utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{linkat, symlinkat};

use crate::exit::{Exit, Failure};

/// The tree.
#[derive(Debug)]
pub(super) struct Tree {
    root: OwnedFd,
    /// The directory the last entry went to; the next one mostly goes there too.
    last: Option<(PathBuf, OwnedFd)>,
    /// Modes and times of directories. They are set when nothing is made in the directories any
    /// more.
    directories: Vec<(PathBuf, u32, i64)>,
}

impl Tree {
    /// # Errors
    /// `dir` cannot be opened.
    pub(super) fn open(dir: &Path) -> Result<Tree> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let root = open(dir, flags, Mode::empty()).with_context(|| format!("{}", dir.display()))?;
        Ok(Tree { root, last: None, directories: Vec::new() })
    }

    /// The tree's own directory.
    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    pub(super) fn directory(&mut self, path: &Path, mode: u32, mtime: i64) -> Result<()> {
        let (parent, name) = self.parent(path)?;
        make_directory(parent, name)?;
        self.directories.push((path.to_owned(), mode, mtime));
        Ok(())
    }

    pub(super) fn symlink(&mut self, path: &Path, target: &Path, mtime: i64) -> Result<()> {
        let (parent, name) = self.parent(path)?;
        symlinkat(target, parent, name).map_err(once)?;
        let at = time(mtime);
        Ok(utimensat(parent, name, &at, &at, UtimensatFlags::NoFollowSymlink)?)
    }

    /// Makes a hard link to a file that exists in the tree. It does not link to the target of a
    /// symlink.
    pub(super) fn hard_link(&mut self, path: &Path, target: &Path) -> Result<()> {
        let there = open_beneath(self.root.as_fd(), target, OFlag::O_PATH | OFlag::O_NOFOLLOW)
            .map_err(look)
            .with_context(|| format!("a hard link to {}", target.display()))?;
        let stat = nix::sys::stat::fstat(&there)?;
        if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
            return Err(refused(format!("a hard link to {}, which is no file", target.display())));
        }
        let from = directory_of(self.root.as_fd(), target)?;
        let (parent, name) = self.parent(path)?;
        let old = target.file_name().unwrap_or_default();
        linkat(&from, old, parent, name, AtFlags::empty()).map_err(once)
    }

    /// Makes a file. Nobody else may read it until [`finish_file`].
    pub(super) fn create(&mut self, path: &Path) -> Result<File> {
        let (parent, name) = self.parent(path)?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        Ok(openat(parent, name, flags, Mode::S_IRUSR | Mode::S_IWUSR).map_err(once)?.into())
    }

    /// Sets modes and times of the directories, the innermost first.
    pub(super) fn finish(&mut self) -> Result<()> {
        self.last = None;
        for (path, mode, mtime) in self.directories.drain(..).rev() {
            let parent = directory_of(self.root.as_fd(), &path)?;
            let name = path.file_name().unwrap_or_default();
            let mode = Mode::from_bits_truncate(mode);
            let at = time(mtime);
            utimensat(&parent, name, &at, &at, UtimensatFlags::NoFollowSymlink)
                .and_then(|()| fchmodat(&parent, name, mode, FchmodatFlags::FollowSymlink))
                .with_context(|| format!("{}", path.display()))?;
        }
        Ok(())
    }

    /// The directory of `path`, and the last name. Makes the directory if the archive does not name
    /// it.
    fn parent<'p>(&mut self, path: &'p Path) -> Result<(BorrowedFd<'_>, &'p OsStr)> {
        let name = path.file_name().context("an entry without a name")?;
        let dir = path.parent().unwrap_or(Path::new(""));
        if dir.as_os_str().is_empty() {
            return Ok((self.root.as_fd(), name));
        }
        if self.last.as_ref().is_none_or(|(last, _)| last != dir) {
            let fd = self.open_or_make(dir)?;
            self.last = Some((dir.to_owned(), fd));
        }
        let (_, fd) = self.last.as_ref().context("the directory just opened")?;
        Ok((fd.as_fd(), name))
    }

    fn open_or_make(&self, dir: &Path) -> Result<OwnedFd> {
        match open_beneath(self.root.as_fd(), dir, OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
            Err(Errno::ENOENT) => {}
            other => return other.map_err(look),
        }
        let mut at = PathBuf::new();
        for name in dir {
            let parent = open_directory(self.root.as_fd(), &at)?;
            make_directory(parent.as_fd(), name)?;
            at.push(name);
        }
        open_directory(self.root.as_fd(), dir)
    }
}

/// Sets permissions and time of a file that was written.
pub(super) fn finish_file(file: &File, mode: u32, mtime: i64) -> Result<()> {
    fchmod(file, Mode::from_bits_truncate(mode))?;
    let at = time(mtime);
    Ok(futimens(file, &at, &at)?)
}

/// Makes a directory that its owner can write to for now. It may exist already.
fn make_directory(parent: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    match mkdirat(parent, name, Mode::from_bits_truncate(0o755)) {
        Err(Errno::EEXIST) => {
            let stat = fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
            if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR {
                Ok(())
            } else {
                Err(refused("a directory where the archive made something else".to_owned()))
            }
        }
        other => Ok(other?),
    }
}

fn directory_of(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd> {
    open_directory(root, path.parent().unwrap_or(Path::new("")))
}

fn open_directory(root: BorrowedFd<'_>, dir: &Path) -> Result<OwnedFd> {
    open_beneath(root, dir, OFlag::O_RDONLY | OFlag::O_DIRECTORY).map_err(look)
}

fn open_beneath(root: BorrowedFd<'_>, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    openat2(root, path, how)
}

/// Turns an error of a lookup into a message. A name cannot lead out of the tree any more, so these
/// are the errors that an archive can still cause.
fn look(error: Errno) -> anyhow::Error {
    let why = match error {
        Errno::ELOOP => "goes through a symlink of the archive",
        Errno::ENOTDIR => "goes through something that is no directory",
        Errno::ENOENT => "is not in the archive so far",
        other => return other.into(),
    };
    refused(why.to_owned())
}

fn once(error: Errno) -> anyhow::Error {
    match error {
        Errno::EEXIST => refused("is in the archive twice".to_owned()),
        other => other.into(),
    }
}

fn refused(message: String) -> anyhow::Error {
    anyhow!(Failure::new(Exit::Refused, message))
}

fn time(seconds: i64) -> TimeSpec {
    TimeSpec::new(seconds, 0)
}
