//! A prefix as it was found on disk, and what a path means in it. Symbolic links are resolved in
//! memory, as if the tree were where its files were made for. Nothing on the way is looked up
//! again.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use crate::elf::Elf;

/// As many links as the kernel follows (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// What one name in the tree is.
#[derive(Debug)]
pub(crate) enum Kind {
    Directory,
    Link(PathBuf),
    File(Content),
    /// A device node, FIFO or socket: which.
    Special(&'static str),
}

/// What the first bytes of a file say.
#[derive(Debug)]
pub(crate) enum Content {
    Other,
    Elf(Box<Elf>),
    /// The line after `#!`.
    Script(Vec<u8>),
    /// An ELF file that contradicts itself, and how.
    Damaged(String),
}

/// One name in the tree.
#[derive(Debug)]
pub(crate) struct Entry {
    pub kind: Kind,
    /// `st_mode`.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Device, inode and number of links, to count a file once.
    pub identity: (u64, u64, u64),
    /// Bytes on disk.
    pub size: u64,
    /// Why it could not be read.
    pub unreadable: Option<String>,
}

impl Entry {
    /// Whether anybody may execute it.
    pub(crate) fn executable(&self) -> bool {
        self.mode & 0o111 != 0
    }

    /// The ELF file that it is.
    pub(crate) fn elf(&self) -> Option<&Elf> {
        match &self.kind {
            Kind::File(Content::Elf(elf)) => Some(elf),
            _ => None,
        }
    }
}

/// A tree; the paths of its entries are relative to its top, which is the empty path.
#[derive(Debug)]
pub(crate) struct Tree {
    /// The path that its files were made for.
    pub eprefix: PathBuf,
    /// That path with the host's links resolved. Programs may have been given this one as well.
    pub canonical: PathBuf,
    pub entries: HashMap<PathBuf, Entry>,
    pub top: OwnedFd,
}

/// Where a path leads.
#[derive(Debug)]
pub(crate) enum Place<'a> {
    /// To this entry.
    Here(PathBuf, &'a Entry),
    /// To nothing: the path, links resolved as far as they go.
    Missing(PathBuf),
    /// Out of the prefix, to this path of the host.
    Outside(PathBuf),
}

impl<'a> Place<'a> {
    /// The entry, if there is one.
    pub(crate) fn here(self) -> Option<(PathBuf, &'a Entry)> {
        match self {
            Place::Here(path, entry) => Some((path, entry)),
            _ => None,
        }
    }
}

impl Tree {
    /// The path an entry is meant to have.
    pub(crate) fn absolute(&self, relative: &Path) -> PathBuf {
        if relative.as_os_str().is_empty() {
            self.eprefix.clone()
        } else {
            self.eprefix.join(relative)
        }
    }

    /// An absolute path, relative to the top; `None` outside. Links are not looked at.
    pub(crate) fn relative<'p>(&self, absolute: &'p Path) -> Option<&'p Path> {
        let below = absolute.strip_prefix(&self.eprefix).ok();
        below.or_else(|| absolute.strip_prefix(&self.canonical).ok())
    }

    /// Where an absolute path leads when the tree is at its EPREFIX. Links of the host are not
    /// known: a path that leaves the prefix has left it.
    pub(crate) fn resolve(&self, path: &Path) -> Place<'_> {
        let mut at = PathBuf::from("/");
        let mut rest: VecDeque<OsString> = names(path).collect();
        let mut links = 0;
        while let Some(name) = rest.pop_front() {
            if name == ".." {
                at.pop();
                continue;
            }
            at.push(&name);
            let Some(relative) = self.relative(&at) else { continue };
            match self.entries.get(relative).map(|entry| &entry.kind) {
                Some(Kind::Link(target)) if links < MAX_LINKS => {
                    links += 1;
                    if target.is_absolute() {
                        at = PathBuf::from("/");
                    } else {
                        at.pop();
                    }
                    names(target).rev().for_each(|name| rest.push_front(name));
                }
                Some(Kind::Directory) => {}
                Some(Kind::File(_) | Kind::Special(_)) if rest.is_empty() => {}
                _ => {
                    at.extend(rest);
                    return Place::Missing(at);
                }
            }
        }
        match self.relative(&at) {
            None => Place::Outside(at),
            Some(relative) => match self.entries.get_key_value(relative) {
                Some((path, entry)) => Place::Here(path.clone(), entry),
                None => Place::Missing(at),
            },
        }
    }

    /// The first `limit` bytes of a file of the tree; no link is followed.
    ///
    /// # Errors
    /// It cannot be read, or is no plain file any more.
    pub(crate) fn read(&self, relative: &Path, limit: u64) -> Result<Vec<u8>> {
        let how = OpenHow::new()
            .flags(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
        let shown = || self.absolute(relative).display().to_string();
        let file = File::from(openat2(&self.top, relative, how).with_context(shown)?);
        anyhow::ensure!(file.metadata()?.is_file(), "{}: not a plain file", shown());
        let mut bytes = Vec::new();
        file.take(limit).read_to_end(&mut bytes).with_context(shown)?;
        Ok(bytes)
    }
}

/// The components of a path, `..` among them.
fn names(path: &Path) -> impl DoubleEndedIterator<Item = OsString> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(entries: Vec<(&str, Kind)>) -> Tree {
        let entry = |kind| Entry {
            kind,
            mode: 0o755,
            uid: 1,
            gid: 1,
            identity: (0, 0, 1),
            size: 0,
            unreadable: None,
        };
        Tree {
            eprefix: PathBuf::from("/home/core/gentoo"),
            canonical: PathBuf::from("/var/home/core/gentoo"),
            entries: entries.into_iter().map(|(p, kind)| (PathBuf::from(p), entry(kind))).collect(),
            top: File::open("/").unwrap().into(),
        }
    }

    #[test]
    fn links_are_resolved_where_the_tree_is_meant_to_be() {
        let link = |target: &str| Kind::Link(PathBuf::from(target));
        let tree = tree(vec![
            ("", Kind::Directory),
            ("bin", link("usr/bin")),
            ("usr", Kind::Directory),
            ("usr/bin", Kind::Directory),
            ("usr/bin/a", Kind::File(Content::Other)),
            ("usr/bin/absolute", link("/home/core/gentoo/bin/a")),
            ("usr/bin/canonical", link("/var/home/core/gentoo/usr/bin/a")),
            ("usr/bin/up", link("../../../gentoo/usr/bin/a")),
            ("usr/bin/host", link("/usr/bin/python3")),
            ("usr/bin/climbs", link("../../../../../usr/bin/python3")),
            ("usr/bin/loop", link("loop")),
            ("usr/bin/dangling", link("/home/core/gentoo/none")),
            ("usr/bin/through", link("a/b")),
        ]);
        for (path, want) in [
            ("bin/a", "here usr/bin/a"),
            ("bin/../bin/a", "here usr/bin/a"),
            ("bin/absolute", "here usr/bin/a"),
            ("bin/canonical", "here usr/bin/a"),
            ("bin/up", "here usr/bin/a"),
            ("bin/host", "outside /usr/bin/python3"),
            ("bin/climbs", "outside /usr/bin/python3"),
            ("bin/loop", "missing /home/core/gentoo/usr/bin/loop"),
            ("bin/dangling", "missing /home/core/gentoo/none"),
            ("bin/through", "missing /home/core/gentoo/usr/bin/a/b"),
            ("", "here "),
            ("..", "outside /home/core"),
        ] {
            let found = match tree.resolve(&Path::new("/home/core/gentoo").join(path)) {
                Place::Here(path, _) => format!("here {}", path.display()),
                Place::Missing(path) => format!("missing {}", path.display()),
                Place::Outside(path) => format!("outside {}", path.display()),
            };
            assert_eq!(found, want, "{path}");
        }
    }
}
