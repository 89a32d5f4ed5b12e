//! The toolchain prefix (EPREFIX): whose it is, how it is entered, Portage inside it. It belongs
//! to an unprivileged user; everything in it is run as that user.

pub mod audit;
pub mod enter;
pub mod info;
pub(crate) mod origin;
pub(crate) mod owned;
pub mod portage;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::exit::{Exit, WithExit};
use crate::fail;
use crate::process::{Cancel, Run, User};
use enter::{Account, Inside, Place};
use owned::owner_on_the_way;

/// Where Gentoo has ccache's links (`ccache-config --install-links`).
const CCACHE_LINKS: &str = "usr/lib/ccache/bin";
/// How long making one symlink may take: the owner's `sh` is not trusted to end.
const LINK_TIME: Duration = Duration::from_secs(10);
/// How long entering may take: mounts, on a machine that is busy.
const ENTER_TIME: Duration = Duration::from_secs(60);
/// How long the compiler may take to print its version: it is not trusted to end either.
const VERSION_TIME: Duration = Duration::from_secs(60);

/// A prefix and its owner.
#[derive(Clone, Debug)]
pub struct Prefix {
    /// EPREFIX, as configured: programs in it were built for exactly this path.
    pub path: PathBuf,
    /// Its owner.
    pub user: User,
    /// The owner, with the names that user and group have inside.
    pub account: Account,
}

impl Prefix {
    /// Opens the prefix at `path`. Builds run as its owner.
    ///
    /// # Errors
    /// [`Exit::PrefixIncomplete`]: there is no directory, or it belongs to root or to root's group.
    /// Or a directory on the way belongs to another user, or others can write to it: they could put
    /// another directory in the prefix's place.
    pub fn open(path: &Path) -> Result<Prefix> {
        let uid = owner_on_the_way(path)
            .with_context(|| {
                format!(
                    "no prefix at {}: set prefix.source, and one is provisioned (if it is set, journalctl -u zfs-prefix-provision says why that failed), or set prefix.path to where it is",
                    path.display()
                )
            })
            .exit(Exit::PrefixIncomplete)?;
        let meta = fs::symlink_metadata(path).exit(Exit::PrefixIncomplete)?;
        if !meta.is_dir() {
            fail!(Exit::PrefixIncomplete, "the prefix {} is not a directory", path.display());
        }
        let known = nix::unistd::User::from_uid(uid.into()).ok().flatten();
        let gid = known.as_ref().map_or(meta.gid(), |user| user.gid.as_raw());
        if uid == 0 || gid == 0 {
            fail!(
                Exit::PrefixIncomplete,
                "the prefix {0} belongs to root (uid {uid}, group {gid}); builds do not run as root: chown -R USER:GROUP {0} to an unprivileged user",
                path.display()
            );
        }
        let user = User { uid, gid };
        Ok(Prefix { path: path.to_owned(), user, account: Account::of(user) })
    }

    /// A command in the prefix. It runs as the owner, with the environment of the prefix, in a
    /// namespace with what `place` has of the machine ([`enter`]). `program` is a path, or a name
    /// that is found by the prefix's PATH. Whether it exists is seen when it runs.
    pub fn run(&self, program: impl AsRef<OsStr>, place: &Place) -> Run {
        let home = place.work.as_deref().unwrap_or(Path::new("/tmp"));
        let run = Run::new(program.as_ref()).dir(home).wrapped(Arc::new(self.inside(place)));
        let environment = enter::environment::environment(&self.path, home, &self.account.user);
        environment.into_iter().fold(run, |run, (name, value)| run.env(name, value))
    }

    fn inside(&self, place: &Place) -> Inside {
        let (prefix, account) = (self.path.clone(), self.account.clone());
        Inside { prefix, account, place: place.clone() }
    }

    /// Enters the prefix and runs nothing: this shows whether the machine lets anybody in. No
    /// program of the prefix can change the answer.
    ///
    /// # Errors
    /// [`Exit::PrefixIncomplete`]: the prefix is not what it should be. Others: the machine is not.
    pub(crate) fn try_to_enter(&self, place: &Place, cancel: &Cancel) -> Result<()> {
        self.run("", place).within(ENTER_TIME).output(cancel).map(drop)
    }

    /// Whether the prefix has ccache(1), and its links that stand for the compilers.
    pub fn has_ccache(&self) -> bool {
        let there = |name: &str| fs::symlink_metadata(self.path.join(name)).is_ok();
        there("usr/bin/ccache") && there(CCACHE_LINKS)
    }

    /// `run`, which compiles below `work`, through ccache if the prefix has it. PATH then begins
    /// with ccache's links. They cover the versioned names that kernel trees call (gcc-12).
    pub fn cached(&self, run: Run, work: &Path) -> Run {
        if !self.has_ccache() {
            return run;
        }
        let mut path = OsString::from(self.path.join(CCACHE_LINKS));
        path.push(":");
        path.push(enter::environment::search_path(&self.path));
        self.ccache(run.env("PATH", path), work)
    }

    /// `run` with the variables that ccache(1) needs. The cache is in the prefix. Another work
    /// directory makes no difference to the cache for configure's own checks. It does for modules:
    /// kbuild compiles in the kernel's tree, and the path from there names the work directory. The
    /// work directory of a kernel release is always the same.
    pub fn ccache(&self, run: Run, work: &Path) -> Run {
        run.env("CCACHE_DIR", self.path.join("var/cache/ccache"))
            .env("CCACHE_BASEDIR", work)
            .env("CCACHE_NOHASHDIR", "1")
    }

    /// The first line of `gcc --version`: part of the key.
    ///
    /// # Errors
    /// [`Exit::PrefixIncomplete`]: no compiler, or it does not run.
    pub fn compiler(&self, cancel: &Cancel) -> Result<String> {
        let text = self
            .run("gcc", &Place::default())
            .arg("--version")
            .within(VERSION_TIME)
            .output(cancel)
            .context("the prefix's compiler")
            .exit(Exit::PrefixIncomplete)?;
        Ok(text.lines().next().unwrap_or_default().to_owned())
    }

    /// Links `${EPREFIX}/lib/modules/<release>` to `tree`'s module directory, with the owner's
    /// rights: the directory is the user's, and root follows nothing in it.
    ///
    /// # Errors
    /// The link cannot be made. The published tree does not change by that.
    pub fn link_modules(&self, release: &crate::host::Release, tree: &Path) -> Result<()> {
        let dir = self.path.join("lib/modules");
        let target = tree.join("lib/modules").join(release.as_str());
        let script = "mkdir -p \"$1\" && ln -sfnT \"$2\" \"$1/$3\"";
        self.run("sh", &Place::default())
            .args(["-c", script, "sh"])
            .arg(&dir)
            .arg(&target)
            .arg(release.as_str())
            .output(&Cancel::after(LINK_TIME))
            .with_context(|| format!("{}/{release}: cannot be linked to the store", dir.display()))
            .map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{chown, symlink};

    #[test]
    fn the_way_to_the_prefix_is_roots_and_then_one_users() {
        let root = tempfile::tempdir().unwrap();
        let dir = |name: &str, uid: u32| {
            let path = root.path().join(name);
            fs::create_dir(&path).unwrap();
            chown(&path, Some(uid), Some(uid)).expect("these tests run as root");
            path
        };
        dir("core", 2000);
        let good = dir("core/gentoo", 2000);
        assert_eq!(Prefix::open(&good).unwrap().user, User { uid: 2000, gid: 2000 });
        dir("alice", 2001);
        let others = dir("alice/evil", 2001);
        symlink(&others, root.path().join("core/link")).unwrap();
        chown(dir("core/other", 2001), Some(2001), Some(2001)).unwrap();
        let group = dir("group", 2002);
        chown(&group, Some(2002), Some(0)).unwrap();
        let dir_of_root = dir("root", 0);
        let mode = |path: &Path, mode| {
            fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        };
        let staff = dir("staff", 0);
        chown(&staff, Some(0), Some(2003)).unwrap();
        let with_staff = dir("staff/gentoo", 2000);
        let with_all = dir("all", 0).join("gentoo");
        dir("all/gentoo", 2000);
        let sticky = dir("sticky", 0).join("gentoo");
        dir("sticky/gentoo", 2000);
        mode(&staff, 0o2775);
        mode(&root.path().join("all"), 0o777);
        mode(&root.path().join("sticky"), 0o1777);
        // umask 002, where each user has a group of its own.
        mode(&root.path().join("core"), 0o775);
        for (case, path) in [("sticky", &sticky), ("the owner's own group", &good)] {
            assert!(Prefix::open(path).is_ok(), "{case}");
        }
        for (case, path) in [
            ("a link to another user's", root.path().join("core/link")),
            ("another user's below", root.path().join("core/other")),
            ("root's", dir_of_root),
            ("below what a group may write to", with_staff),
            ("below what everybody may write to", with_all),
            ("root's group", group),
            ("none", root.path().join("none")),
        ] {
            let error = Prefix::open(&path).expect_err(case);
            assert_eq!(crate::exit::of(&error), Exit::PrefixIncomplete, "{case}: {error:#}");
        }
    }
}
