//! Where a prefix goes, who will own it, and the temporary directory beside that place where it is
//! made.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;

use crate::exit::{Exit, Failure, WithExit};
use crate::prefix::origin::mark;
use crate::prefix::owned::owner_on_the_way;
use crate::process::User;
use crate::store::{put_in_place, sync_dir, unix_now};
use crate::{config, fail};

/// How long removing an unpacked tree may take.
pub(super) const CLEANING: Duration = Duration::from_secs(300);
/// The name of a temporary directory has this between the prefix's name and the random letters.
const TEMPORARY: &str = ".provision-";

/// What exists at the prefix's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Present {
    /// Nothing, or an empty directory.
    Nothing,
    /// Something.
    Content,
}

impl Present {
    /// Looks at the path. A directory that cannot be read counts as content: we may not replace it.
    pub(super) fn at(path: &Path) -> Present {
        let nothing = match fs::symlink_metadata(path) {
            Err(e) => e.kind() == std::io::ErrorKind::NotFound,
            Ok(meta) if meta.is_dir() => fs::read_dir(path).is_ok_and(|mut d| d.next().is_none()),
            Ok(_) => false,
        };
        if nothing { Present::Nothing } else { Present::Content }
    }
}

/// A place for a prefix.
#[derive(Debug)]
pub(super) struct Target {
    /// EPREFIX.
    pub(super) path: PathBuf,
    /// Its future owner.
    pub(super) user: User,
    /// Only root can create and rename files in the directory it goes to.
    pub(super) parent_is_roots: bool,
}

impl Target {
    /// Decides who will own the prefix: `prefix.user`, otherwise the owner of what exists there,
    /// otherwise the owner of the directory it goes to.
    ///
    /// # Errors
    /// [`Exit::PrefixIncomplete`]: the directory or the user does not exist, the owner would be
    /// root, or a directory above the prefix belongs to somebody else.
    pub(super) fn find(prefix: &config::Prefix) -> Result<Target> {
        let path = prefix.path.clone();
        let parent = parent(&path);
        let parent_uid = owner_on_the_way(parent)
            .with_context(|| format!("prefix.path = {}: the directory for it", path.display()))
            .exit(Exit::PrefixIncomplete)?;
        let meta = fs::metadata(parent).with_context(|| format!("{}", parent.display()))?;
        let present = match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_symlink() => fail!(
                Exit::PrefixIncomplete,
                "{} is a symlink: set prefix.path to where it leads",
                path.display()
            ),
            Ok(there) if there.dev() != meta.dev() => return Err(mount_point(&path)),
            Ok(there) => Some(there.uid()).filter(|uid| *uid != 0),
            Err(_) => None,
        };
        let user = match (&prefix.user, present.unwrap_or(parent_uid)) {
            (Some(name), _) => named(name)?,
            (None, 0) => fail!(
                Exit::PrefixIncomplete,
                "{} needs an owner: {} belongs to root, and builds do not run as root: set prefix.user",
                path.display(),
                parent.display()
            ),
            (None, uid) => numbered(uid, Some(meta.gid()))?,
        };
        if user.uid == 0 || user.gid == 0 {
            fail!(
                Exit::PrefixIncomplete,
                "a prefix does not belong to root or root's group (user {}, group {}): set prefix.user to another user",
                user.uid,
                user.gid
            );
        }
        if parent_uid != 0 && parent_uid != user.uid {
            fail!(
                Exit::PrefixIncomplete,
                "{} belongs to user {parent_uid}, the prefix in it would be user {}'s: set prefix.user or prefix.path",
                parent.display(),
                user.uid
            );
        }
        Ok(Target { path, user, parent_is_roots: parent_uid == 0 })
    }
}

/// prefix.path is never `/`.
pub(super) fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

fn named(name: &str) -> Result<User> {
    let found = nix::unistd::User::from_name(name).context("looking up prefix.user")?;
    match (found, name.parse::<u32>()) {
        (Some(user), _) => Ok(User { uid: user.uid.as_raw(), gid: user.gid.as_raw() }),
        (None, Ok(uid)) => numbered(uid, None),
        (None, Err(_)) => fail!(Exit::PrefixIncomplete, "prefix.user = {name:?}: no such user"),
    }
}

/// The user with this id. Its group comes from the user database, otherwise it is `gid` or has the
/// same number.
fn numbered(uid: u32, gid: Option<u32>) -> Result<User> {
    let known = nix::unistd::User::from_uid(uid.into()).context("looking up the owner")?;
    let gid = known.map_or(gid.filter(|gid| *gid != 0).unwrap_or(uid), |user| user.gid.as_raw());
    Ok(User { uid, gid })
}

/// The beginning of the names of temporary directories for `target`.
fn temporary(target: &Path) -> OsString {
    let mut name = OsString::from(".");
    name.push(target.file_name().unwrap_or(OsStr::new("prefix")));
    name.push(TEMPORARY);
    name
}

/// Makes the temporary directory beside `target` with mode 0755. Root gives it to `user`.
pub(super) fn make(target: &Path, user: User) -> Result<PathBuf> {
    let dir = tempfile::Builder::new()
        .prefix(&temporary(target))
        .rand_bytes(RANDOM)
        .make_in(parent(target), |path| fs::DirBuilder::new().mode(0o755).create(path))
        .with_context(|| format!("{}: cannot make a directory", parent(target).display()))?;
    let path = dir.path().to_owned();
    // From here on the directory is the caller's. `clean` removes it.
    let _ = dir.keep();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("{}", path.display()))?;
    if am_root() {
        chown(&path, Some(user.uid), Some(user.gid))
            .with_context(|| format!("{}: cannot be given to user {}", path.display(), user.uid))?;
    }
    Ok(path)
}

/// The number of random letters at the end of a temporary directory's name.
const RANDOM: usize = 6;

/// Removes temporary directories of `target` that belong to `uid`, or to the user that runs this.
/// If one of them is the replaced prefix, it is kept under its `.old-` name instead. The caller
/// holds the lock, so nobody works in these directories.
pub(super) fn clean(target: &Path, uid: u32) -> Result<()> {
    let parent = parent(target);
    let begin = temporary(target);
    let replaced = made_as(target);
    for entry in fs::read_dir(parent).with_context(|| format!("{}", parent.display()))? {
        let entry = entry.with_context(|| format!("{}", parent.display()))?;
        let name = entry.file_name();
        let ours = name.as_bytes().strip_prefix(begin.as_bytes()).is_some_and(|random| {
            random.len() == RANDOM && random.iter().all(u8::is_ascii_alphanumeric)
        });
        let path = entry.path();
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        let me = nix::unistd::geteuid().as_raw();
        if ours && replaced.is_some() && name.to_str() == replaced.as_deref() {
            keep(&path, target)?;
        } else if ours && meta.is_dir() && (meta.uid() == uid || meta.uid() == me) {
            remove_tree(&path).with_context(|| format!("{}: cannot be removed", path.display()))?;
        }
    }
    Ok(())
}

/// The name that the present prefix had as a temporary directory, if its mark says so. A directory
/// with that name now is the replaced prefix: the two were exchanged.
fn made_as(target: &Path) -> Option<String> {
    mark(target)?["made_as"].as_str().map(str::to_owned)
}

/// Renames the replaced prefix to `<name>.old-<seconds since 1970>`. Returns that path.
fn keep(old: &Path, target: &Path) -> Result<PathBuf> {
    let named = |when: u64| {
        let mut name = target.file_name().unwrap_or_default().to_owned();
        name.push(format!(".old-{when}"));
        parent(target).join(name)
    };
    let free = |path: &PathBuf| fs::symlink_metadata(path).is_err();
    let kept = (unix_now()..).map(named).find(free).context("no name for the old prefix")?;
    fs::rename(old, &kept).map_err(|e| not_renamed(e, &kept))?;
    sync_dir(parent(target))?;
    Ok(kept)
}

fn remove_tree(dir: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(dir) {
        // The tree has directories that their owner may not write to. They do not stop root. And
        // root must not change modes by path in somebody else's tree: a name could have become a
        // link.
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied && !am_root() => {
            open_up(dir)?;
            fs::remove_dir_all(dir)
        }
        other => other,
    }
}

fn am_root() -> bool {
    nix::unistd::geteuid().is_root()
}

fn open_up(dir: &Path) -> std::io::Result<()> {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_up(&entry.path())?;
        }
    }
    Ok(())
}

/// Renames the unpacked tree to `target`. With `replace` it keeps what has this name now as
/// `<name>.old-<seconds since 1970>`. Returns that path, or an empty one.
pub(super) fn place(dir: &Path, target: &Path, replace: bool) -> Result<PathBuf> {
    let mut kept = PathBuf::new();
    if Present::at(target) == Present::Nothing {
        fs::rename(dir, target).map_err(|e| not_renamed(e, target))?;
    } else if replace {
        let exchanged = || {
            put_in_place(dir, target).with_context(|| {
                format!("{}: cannot be exchanged with {}", target.display(), dir.display())
            })
        };
        exchanged()?;
        // Write the exchange to disk before the next rename. After a crash `clean` goes on from
        // here.
        sync_dir(parent(target))?;
        kept = keep(dir, target).or_else(|e| exchanged().and(Err(e)))?;
    } else {
        fail!(Exit::Other, "{} is there already", target.display());
    }
    sync_dir(parent(target))?;
    Ok(kept)
}

fn not_renamed(error: std::io::Error, target: &Path) -> anyhow::Error {
    if error.raw_os_error() == Some(Errno::EBUSY as i32) {
        mount_point(target)
    } else {
        anyhow::Error::from(error)
            .context(format!("{}: the prefix cannot be put there", target.display()))
    }
}

fn mount_point(path: &Path) -> anyhow::Error {
    let path = path.display();
    let text = format!("{path} is a mount point: set prefix.path to a directory in it");
    Failure::new(Exit::PrefixIncomplete, text).into()
}
