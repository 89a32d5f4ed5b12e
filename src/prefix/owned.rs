//! All that root does with files of the prefix's owner. The owner may change them at any moment. So
//! root looks up no name twice, and follows no link of the owner.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use crate::process::User;

/// Nothing that is published is larger (zfs.ko with debug information has 94 MB).
const MAX_FILE: u64 = 512 * 1024 * 1024;
/// A directory itself, not what a link leads to.
const DIRECTORY: i32 = libc::O_DIRECTORY | libc::O_NOFOLLOW;

/// Reads a plain file below `top` without following any link, as [`open_plain`] does.
pub(crate) fn read_plain(top: &Path, path: &Path) -> Result<Vec<u8>> {
    read_all(&open_plain(top, path)?, path)
}

/// Opens a plain file below `top` without following any link. This holds for the last component and
/// for the directories on the way, which belong to somebody else (openat2(2), RESOLVE_NO_SYMLINKS).
///
/// # Errors
/// A link is on the way. Or it is no regular file, has other names too, or is very large.
pub(crate) fn open_plain(top: &Path, path: &Path) -> Result<File> {
    let relative = path.strip_prefix(top).with_context(|| format!("{}", path.display()))?;
    let dir = File::open(top).with_context(|| format!("{}", top.display()))?;
    open_at(&dir, relative, ResolveFlag::RESOLVE_NO_SYMLINKS, path)
}

/// Opens what the links at `path` lead to. This must be below `inside`, and no link may be on the
/// way from `top` to `inside`. The kernel refuses every other place (openat2(2), RESOLVE_BENEATH).
///
/// # Errors
/// As [`open_plain`]; or a link leads out of `inside`.
pub(crate) fn open_linked(top: &Path, inside: &Path, path: &Path) -> Result<File> {
    let shown = || format!("{}", path.display());
    let directory = inside.strip_prefix(top).with_context(shown)?;
    let relative = path.strip_prefix(inside).with_context(shown)?;
    let dir = File::open(top).with_context(|| format!("{}", top.display()))?;
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_BENEATH);
    let dir = File::from(openat2(&dir, directory, how).with_context(shown)?);
    open_at(&dir, relative, ResolveFlag::RESOLVE_NO_MAGICLINKS, path)
}

fn open_at(dir: &File, relative: &Path, links: ResolveFlag, path: &Path) -> Result<File> {
    let shown = || format!("{}", path.display());
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)
        .resolve(links | ResolveFlag::RESOLVE_BENEATH);
    let file = File::from(openat2(dir, relative, how).with_context(shown)?);
    let meta = file.metadata().with_context(shown)?;
    if !meta.is_file() || meta.nlink() != 1 || meta.len() > MAX_FILE {
        bail!("{}: not a plain file of at most {MAX_FILE} bytes with one name", path.display());
    }
    Ok(file)
}

/// All bytes of a file that one of these functions opened.
///
/// # Errors
/// It grew meanwhile, or cannot be read.
pub(crate) fn read_all(file: &File, path: &Path) -> Result<Vec<u8>> {
    let shown = || format!("{}", path.display());
    let size = file.metadata().with_context(shown)?.len().min(MAX_FILE);
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1);
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).with_context(shown)?;
    if bytes.len() as u64 > MAX_FILE {
        bail!("{}: grew while it was read", path.display());
    }
    Ok(bytes)
}

/// Makes an empty directory of `owner` in a directory of root. Removes what has its name.
///
/// # Errors
/// It cannot be made, or what has its name cannot be removed.
pub(crate) fn owners_dir(path: &Path, owner: User) -> Result<()> {
    remove(path)?;
    give(&make_dir(path)?, owner)
        .with_context(|| format!("{}: cannot be user {}'s", path.display(), owner.uid))
}

/// Removes a directory of root with all that others put into it. It need not exist.
///
/// # Errors
/// It cannot be removed.
pub(crate) fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("{}: cannot be removed", dir.display()))
        }
        _ => Ok(()),
    }
}

/// Makes a directory of root that nobody else may look into.
///
/// # Errors
/// It cannot be made.
pub(crate) fn make_dir(path: &Path) -> Result<File> {
    let open = || File::options().read(true).custom_flags(DIRECTORY).open(path);
    fs::DirBuilder::new()
        .mode(0o700)
        .create(path)
        .and_then(|()| open())
        .with_context(|| format!("{}: cannot be made", path.display()))
}

/// Gives the open directory to `owner`.
///
/// # Errors
/// fchown(2) failed.
pub(crate) fn give(dir: &File, owner: User) -> std::io::Result<()> {
    dir.set_permissions(fs::Permissions::from_mode(0o755))?;
    fchown(dir, Some(owner.uid), Some(owner.gid))
}

/// The owner of the last component of `path`. Directories and links on the way may belong to root
/// up to a point, and then to one user. Nobody else may write to them. Otherwise others could lead
/// us to what belongs to another user, and the build would run with that user's rights.
pub(crate) fn owner_on_the_way(path: &Path) -> Result<u32> {
    let mut owner = 0;
    // Root's own links (/home -> var/home) are followed. Their targets are checked too.
    for way in [path.to_owned(), fs::canonicalize(path)?] {
        owner = 0;
        let mut shared = Vec::new();
        let ancestors: Vec<&Path> = way.ancestors().collect();
        for step in ancestors.into_iter().rev() {
            let meta = fs::symlink_metadata(step)?;
            let other_owner = owner != 0 && meta.uid() != owner;
            let link = meta.is_symlink() && meta.uid() != 0;
            if other_owner || link {
                anyhow::bail!(
                    "{} belongs to uid {}{}: directories above it are uid {owner}'s",
                    step.display(),
                    meta.uid(),
                    if link { " and is a symlink" } else { "" }
                );
            }
            owner = meta.uid();
            // In a sticky directory, a user can rename only what belongs to that user.
            if meta.is_dir() && meta.mode() & 0o022 != 0 && meta.mode() & 0o1000 == 0 {
                shared.push((step, meta));
            }
        }
        shared.iter().try_for_each(|(dir, meta)| nobody_elses(dir, meta, owner))?;
    }
    Ok(owner)
}

/// Refuses a directory that others than root and `owner` may write to.
fn nobody_elses(dir: &Path, meta: &fs::Metadata, owner: u32) -> Result<()> {
    let shown = dir.display();
    if meta.mode() & 0o002 != 0 {
        anyhow::bail!("{shown} can be written to by everybody: chmod o-w {shown}");
    }
    // By custom, the own group of a user without an entry in passwd(5) has the user's number.
    let known = nix::unistd::User::from_uid(owner.into()).ok().flatten();
    let own = known.map_or(owner, |user| user.gid.as_raw());
    if meta.gid() != 0 && meta.gid() != own {
        anyhow::bail!("{shown} can be written to by group {}: chmod g-w {shown}", meta.gid());
    }
    Ok(())
}
