//! What an entry of an archive may be. These rules look only at the entry. [`super::place`] looks
//! at the disk.

use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use anyhow::{Result, bail};
use tar::EntryType;

use crate::prefix::audit::may_lead_to;

/// An entry that may be unpacked.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// The path below the tree's root: names only.
    pub(super) path: PathBuf,
    pub(super) kind: Kind,
    /// Permission bits, 0777 at most.
    pub(super) mode: u32,
    /// Seconds since 1970.
    pub(super) mtime: i64,
}

/// What it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The tree itself.
    Root,
    Directory,
    /// A file with this many bytes.
    File(u64),
    /// A symlink with this target, exactly as it will be written.
    Symlink(PathBuf),
    /// A hard link to the path of an earlier entry.
    HardLink(PathBuf),
}

impl Entry {
    /// For messages.
    pub(super) fn shown(&self) -> String {
        self.path.display().to_string()
    }
}

/// The paths that the tree will have: EPREFIX, and the same without links (/home may be a link to
/// var/home).
#[derive(Debug)]
pub(super) struct Inside(Vec<PathBuf>);

impl Inside {
    pub(super) fn of(eprefix: &Path) -> Inside {
        let parent = eprefix.parent().and_then(|parent| parent.canonicalize().ok());
        let canonical = parent.zip(eprefix.file_name()).map(|(parent, name)| parent.join(name));
        Inside([Some(eprefix.to_owned()), canonical].into_iter().flatten().collect())
    }

    fn has(&self, path: &Path) -> bool {
        self.0.iter().any(|eprefix| path.starts_with(eprefix))
    }
}

/// Reads an entry's header. `None` if the entry only describes others. Ignores ownership, extended
/// attributes and capabilities.
///
/// # Errors
/// The entry is not allowed. The error names it and says why.
pub(super) fn check<R: Read>(entry: &tar::Entry<'_, R>, inside: &Inside) -> Result<Option<Entry>> {
    let header = entry.header();
    let kind = header.entry_type();
    if kind.is_pax_global_extensions() {
        return Ok(None);
    }
    let raw = entry.path_bytes();
    let link = entry.link_name_bytes();
    let described = Described {
        name: Path::new(std::ffi::OsStr::from_bytes(&raw)),
        kind,
        link: link.as_deref().map(|l| Path::new(std::ffi::OsStr::from_bytes(l))),
        mode: header.mode()?,
        size: entry.size(),
    };
    let (path, kind) = described.judge(inside)?;
    let mtime = i64::try_from(header.mtime()?).unwrap_or(0);
    let mode = match kind {
        Kind::Directory => directory_mode(described.mode),
        _ => described.mode & 0o777,
    };
    Ok(Some(Entry { path, kind, mode, mtime }))
}

/// A prefix has one user. So `tmp` needs neither the sticky bit nor write permission for everybody,
/// and no directory needs setgid.
fn directory_mode(mode: u32) -> u32 {
    match mode & 0o7002 {
        0 => mode & 0o777,
        _ => 0o755,
    }
}

/// What a header says.
struct Described<'a> {
    name: &'a Path,
    kind: EntryType,
    link: Option<&'a Path>,
    mode: u32,
    size: u64,
}

impl Described<'_> {
    fn judge(&self, inside: &Inside) -> Result<(PathBuf, Kind)> {
        let shown = self.name.display();
        if self.name.is_absolute() {
            bail!("{shown}: an absolute path in the archive; entries are relative to the prefix");
        }
        let Some(path) = names(self.name) else {
            bail!(
                "{shown}: a path with \"..\" in the archive, which could lead outside the prefix"
            );
        };
        let kind = match self.kind {
            EntryType::Directory if path.as_os_str().is_empty() => return Ok((path, Kind::Root)),
            EntryType::Directory => Kind::Directory,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                Kind::File(self.size)
            }
            EntryType::Symlink => Kind::Symlink(self.symlink(&path, inside)?),
            EntryType::Link => Kind::HardLink(self.hard_link()?),
            EntryType::Char | EntryType::Block => bail!("{shown}: a device in the archive"),
            EntryType::Fifo => bail!("{shown}: a FIFO in the archive"),
            other => bail!("{shown}: an entry of unknown kind {:?}", char::from(other.as_byte())),
        };
        if path.as_os_str().is_empty() {
            bail!("an entry without a name that is no directory");
        }
        if matches!(kind, Kind::File(_)) {
            self.permissions()?;
        }
        Ok((path, kind))
    }

    fn permissions(&self) -> Result<()> {
        let (shown, mode) = (self.name.display(), self.mode & 0o7777);
        if mode & 0o6000 != 0 {
            let which = if mode & 0o4000 != 0 { "setuid" } else { "setgid" };
            bail!("{shown}: a {which} bit (mode {mode:04o}) in the archive");
        }
        if mode & 0o002 != 0 {
            bail!("{shown}: may be written to by everybody (mode {mode:04o})");
        }
        Ok(())
    }

    /// The target of a symlink. It has to be inside, or a place of the host that the audit allows.
    /// While the tree is unpacked, no link is followed.
    fn symlink(&self, path: &Path, inside: &Inside) -> Result<PathBuf> {
        let shown = self.name.display();
        let Some(target) = self.link.filter(|target| !target.as_os_str().is_empty()) else {
            bail!("{shown}: a symlink to nothing");
        };
        // join() lets an absolute target replace the path before it.
        let from = path.parent().unwrap_or(Path::new(""));
        let leads_out = |eprefix: &PathBuf| {
            let to = resolve(&eprefix.join(from).join(target));
            !inside.has(&to) && !may_lead_to(path, &to)
        };
        if !inside.0.iter().any(leads_out) {
            Ok(target.to_owned())
        } else {
            bail!("{shown}: a symlink to {}, outside the prefix", target.display())
        }
    }

    fn hard_link(&self) -> Result<PathBuf> {
        let shown = self.name.display();
        let target = self.link.unwrap_or(Path::new(""));
        match names(target).filter(|to| !target.is_absolute() && !to.as_os_str().is_empty()) {
            Some(to) => Ok(to),
            None => bail!("{shown}: a hard link to {}, outside the prefix", target.display()),
        }
    }
}

/// The path as names only. `None` if it contains `..`.
fn names(path: &Path) -> Option<PathBuf> {
    let mut names = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(names)
}

/// Where an absolute path leads. Looks only at its names. The parent of `/` is `/`.
fn resolve(path: &Path) -> PathBuf {
    let mut at = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => at.push(name),
            Component::ParentDir => {
                at.pop();
            }
            _ => {}
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(name: &str, kind: EntryType, link: Option<&str>, mode: u32) -> Result<Kind> {
        let (name, link) = (Path::new(name), link.map(Path::new));
        let described = Described { name, kind, link, mode, size: 7 };
        let inside = Inside(vec!["/home/core/gentoo".into(), "/var/home/core/gentoo".into()]);
        described.judge(&inside).map(|(_, kind)| kind)
    }

    #[test]
    fn entries_of_a_prefix_are_taken() {
        use EntryType::{Directory, Link, Regular, Symlink};
        for (name, kind, link, mode, expected) in [
            ("./", Directory, None, 0o755, Kind::Root),
            (".", Directory, None, 0o2777, Kind::Root),
            ("./usr/bin/bash", Regular, None, 0o755, Kind::File(7)),
            ("usr/lib/", Directory, None, 0o1755, Kind::Directory),
            ("tmp", Directory, None, 0o1777, Kind::Directory),
            ("games", Directory, None, 0o2775, Kind::Directory),
            (
                "etc/passwd",
                Symlink,
                Some("/etc/passwd"),
                0o777,
                Kind::Symlink("/etc/passwd".into()),
            ),
            ("run", Symlink, Some("../../../run"), 0o777, Kind::Symlink("../../../run".into())),
            ("usr/lib/null", Symlink, Some("/dev/null"), 0o777, Kind::Symlink("/dev/null".into())),
            (
                "usr/bin/x",
                Symlink,
                Some("/var/home/core/gentoo/usr/bin/y"),
                0o777,
                Kind::Symlink("/var/home/core/gentoo/usr/bin/y".into()),
            ),
            ("bin", Symlink, Some("usr/bin"), 0o777, Kind::Symlink("usr/bin".into())),
            ("a/b/c", Symlink, Some("../../x"), 0o777, Kind::Symlink("../../x".into())),
            ("usr/x", Link, Some("./usr/y"), 0o755, Kind::HardLink("usr/y".into())),
            (
                "lib",
                Symlink,
                Some("/home/core/gentoo/usr/lib"),
                0o777,
                Kind::Symlink("/home/core/gentoo/usr/lib".into()),
            ),
        ] {
            assert_eq!(judged(name, kind, link, mode).unwrap(), expected, "{name}");
        }
    }

    #[test]
    fn directories_are_their_owners_alone() {
        for (mode, expected) in
            [(0o755, 0o755), (0o700, 0o700), (0o555, 0o555), (0o1777, 0o755), (0o2750, 0o755)]
        {
            assert_eq!(directory_mode(mode), expected, "{mode:o}");
        }
    }

    #[test]
    fn an_entry_that_leads_out_or_gives_rights_is_refused_by_name() {
        use EntryType::{Block, Char, Directory, Fifo, Link, Regular, Symlink};
        for (name, kind, link, mode, why) in [
            ("/etc/passwd", Regular, None, 0o644, "an absolute path"),
            ("a/../../x", Regular, None, 0o644, "a path with \"..\""),
            ("..", Directory, None, 0o755, "a path with \"..\""),
            ("./", Regular, None, 0o644, "no directory"),
            ("dev/null", Char, None, 0o666, "a device"),
            ("dev/sda", Block, None, 0o660, "a device"),
            ("pipe", Fifo, None, 0o644, "a FIFO"),
            ("su", Regular, None, 0o4755, "a setuid bit"),
            ("wall", Regular, None, 0o2755, "a setgid bit"),
            ("x", Regular, None, 0o666, "written to by everybody"),
            ("lib/l", Symlink, Some("/etc"), 0o777, "a symlink to /etc, outside"),
            ("bin", Symlink, Some("/home/core/gentoo2"), 0o777, "outside"),
            ("bin/l", Symlink, Some("/home/core/gentoo/../x"), 0o777, "outside"),
            ("usr/bin/l", Symlink, Some("../../../x"), 0o777, "outside"),
            ("usr/include/l", Symlink, Some("../../../../../../../x"), 0o777, "outside"),
            ("l", Symlink, Some(""), 0o777, "a symlink to nothing"),
            ("h", Link, Some("/etc/shadow"), 0o644, "a hard link to /etc/shadow, outside"),
            ("h", Link, Some("../x"), 0o644, "outside"),
            ("h", Link, None, 0o644, "outside"),
            ("s", EntryType::new(b'Z'), None, 0o644, "of unknown kind 'Z'"),
        ] {
            let error = judged(name, kind, link, mode).expect_err(name).to_string();
            assert!(error.contains(why), "{name}: {error}");
        }
    }
}
