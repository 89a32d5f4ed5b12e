//! Reads a whole tree that belongs to somebody else. Every name is opened below the descriptor of
//! its directory, and no link is followed, so that the owner cannot lead us elsewhere. Of each file
//! only the beginning is read, and of ELF files what ld.so needs.

use std::collections::HashMap;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};

use super::findings::portages;
use super::tree::{Content, Entry, Kind, Tree};
use crate::elf::Elf;
use crate::exit::{Exit, WithExit};

/// The kernel reads no more of a `#!` line (BINPRM_BUF_SIZE of linux/binfmts.h).
pub(super) const SCRIPT_HEAD: usize = 256;
/// Deeper than any real tree; a path of the kernel has at most 4096 bytes.
const MAX_DEPTH: usize = 200;

/// Reads the tree in `root`, made for `eprefix`.
///
/// # Errors
/// [`Exit::PrefixIncomplete`]: `root` cannot be opened as a directory.
pub(crate) fn read(root: &Path, eprefix: &Path) -> Result<Tree> {
    let open = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let top = nix::fcntl::open(root, open, Mode::empty())
        .with_context(|| format!("the prefix {}", root.display()))
        .exit(Exit::PrefixIncomplete)?;
    let stat = fstat(&top).with_context(|| format!("{}", root.display()))?;
    let shared = Arc::new(top);
    let walk = Walk {
        state: Mutex::new(State {
            waiting: vec![Job {
                parent: shared.clone(),
                name: c".".to_owned(),
                path: PathBuf::new(),
                depth: 0,
            }],
            busy: 0,
        }),
        changed: Condvar::new(),
    };
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(4));
    let mut entries = HashMap::new();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(|| walk.work())).collect();
        for worker in workers {
            match worker.join() {
                Ok(found) => entries.extend(found),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    // An unreadable top has added its own entry already.
    entries.entry(PathBuf::new()).or_insert_with(|| entry(Kind::Directory, &stat));
    let top = Arc::try_unwrap(shared).map_err(|_| anyhow::anyhow!("a directory is in use"))?;
    // The tree need not be at this path yet, and perhaps nothing is.
    let canonical = std::fs::canonicalize(eprefix).unwrap_or_else(|_| eprefix.to_owned());
    Ok(Tree { eprefix: eprefix.to_owned(), canonical, entries, top })
}

/// A directory to be read. It is opened when its turn comes. Otherwise a wide tree would take all
/// descriptors.
struct Job {
    parent: Arc<OwnedFd>,
    name: CString,
    path: PathBuf,
    depth: usize,
}

struct State {
    waiting: Vec<Job>,
    busy: usize,
}

struct Walk {
    state: Mutex<State>,
    changed: Condvar,
}

type Found = Vec<(PathBuf, Entry)>;

impl Walk {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) -> Found {
        let mut found = Vec::new();
        while let Some(job) = self.next() {
            let mut below = Vec::new();
            if let Err(errno) = directory(&job, &mut found, &mut below) {
                found.push((job.path.clone(), unreadable(&job, errno)));
            }
            drop(job);
            let mut state = self.lock();
            state.waiting.append(&mut below);
            state.busy -= 1;
            drop(state);
            self.changed.notify_all();
        }
        found
    }

    /// The next directory. `None`: none is left, and no thread can find another.
    fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.waiting.pop() {
                state.busy += 1;
                return Some(job);
            }
            if state.busy == 0 {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A directory that is there and cannot be listed.
fn unreadable(job: &Job, errno: Errno) -> Entry {
    let stat = fstatat(&*job.parent, job.name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW);
    let why = Some(errno.desc().to_owned());
    match stat {
        Ok(stat) => Entry { unreadable: why, ..entry(Kind::Directory, &stat) },
        Err(_) => Entry {
            kind: Kind::Directory,
            mode: 0,
            uid: 0,
            gid: 0,
            identity: (0, 0, 1),
            size: 0,
            unreadable: why,
        },
    }
}

/// Reads one directory: what is in it, and the directories `below` it.
fn directory(job: &Job, found: &mut Found, below: &mut Vec<Job>) -> Result<(), Errno> {
    if job.depth > MAX_DEPTH {
        return Err(Errno::ENAMETOOLONG);
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let fd = openat(&*job.parent, job.name.as_c_str(), flags, Mode::empty())?;
    let mut listing = Dir::from_fd(nix::unistd::dup(&fd)?)?;
    let parent = Arc::new(fd);
    // A repository has 100,000 files, and nothing there is run.
    let opened = !portages(&job.path);
    for name in listing.iter() {
        let name = name?;
        let name = name.file_name();
        if [&b"."[..], b".."].contains(&name.to_bytes()) {
            continue;
        }
        let path = job.path.join(OsStr::from_bytes(name.to_bytes()));
        match look(&parent, name, opened) {
            // A build or its owner removed it meanwhile.
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno),
            Ok(entry) => {
                if matches!(entry.kind, Kind::Directory) {
                    let (parent, name, depth) = (parent.clone(), name.to_owned(), job.depth + 1);
                    below.push(Job { parent, name, path: path.clone(), depth });
                }
                found.push((path, entry));
            }
        }
    }
    Ok(())
}

/// Looks at one name. If it is to be `opened`, reads the beginning of a file.
fn look(parent: &OwnedFd, name: &std::ffi::CStr, opened: bool) -> Result<Entry, Errno> {
    let stat = fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let kind = match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFDIR => Kind::Directory,
        SFlag::S_IFLNK => Kind::Link(readlinkat(parent, name)?.into()),
        SFlag::S_IFREG if opened => return Ok(file(parent, name, &stat)),
        SFlag::S_IFREG => Kind::File(Content::Other),
        SFlag::S_IFBLK => Kind::Special("block device"),
        SFlag::S_IFCHR => Kind::Special("character device"),
        SFlag::S_IFIFO => Kind::Special("FIFO"),
        _ => Kind::Special("socket"),
    };
    Ok(entry(kind, &stat))
}

fn file(parent: &OwnedFd, name: &std::ffi::CStr, stat: &FileStat) -> Entry {
    let plain = entry(Kind::File(Content::Other), stat);
    if stat.st_size < 4 {
        return plain;
    }
    // Non-blocking: it may have been replaced by a FIFO.
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let content = openat(parent, name, flags | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|errno| errno.desc().to_owned())
        .and_then(|fd| content(&File::from(fd), plain.executable()).map_err(|e| e.to_string()));
    match content {
        Ok(content) => Entry { kind: Kind::File(content), ..plain },
        Err(why) => Entry { unreadable: Some(why), ..plain },
    }
}

fn content(file: &File, executable: bool) -> std::io::Result<Content> {
    let mut head = [0; SCRIPT_HEAD];
    let length = match file.read_at(&mut head, 0) {
        Err(e) if e.kind() == std::io::ErrorKind::Interrupted => file.read_at(&mut head, 0)?,
        other => other?,
    };
    let head = &head[..length];
    if head.starts_with(b"\x7fELF") {
        return Ok(match Elf::read(head, file) {
            Ok(elf) => Content::Elf(Box::new(elf)),
            Err(error) => Content::Damaged(format!("{error:#}")),
        });
    }
    match head.strip_prefix(b"#!") {
        Some(line) if executable => {
            let end = line.iter().position(|byte| *byte == b'\n');
            Ok(Content::Script(line[..end.unwrap_or(line.len())].to_vec()))
        }
        _ => Ok(Content::Other),
    }
}

fn entry(kind: Kind, stat: &FileStat) -> Entry {
    Entry {
        kind,
        mode: stat.st_mode,
        uid: stat.st_uid,
        gid: stat.st_gid,
        identity: (stat.st_dev, stat.st_ino, stat.st_nlink),
        size: u64::try_from(stat.st_blocks).unwrap_or(0) * 512,
        unreadable: None,
    }
}
