//! Running programs of a prefix that is looked at: as its owner, never as root, at the path they
//! were made for.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::toolchain::SEARCH_PATH;
use super::tree::Tree;
use crate::build::command::{Cancel, Run, User};
use crate::prefix::Prefix;

/// How long a program may say nothing.
const PATIENCE: Duration = Duration::from_secs(60);

/// The way into a prefix, and a directory to work in.
pub(crate) struct Programs<'a> {
    eprefix: &'a Path,
    /// Whom they run as; none: the caller.
    user: Option<User>,
    cancel: &'a Cancel,
    work: tempfile::TempDir,
}

impl<'a> Programs<'a> {
    /// Ready to run programs of `tree`, which is in the directory `root`.
    ///
    /// # Errors
    /// The tree is not where its programs were made for, or belongs to root.
    pub(crate) fn enter(tree: &'a Tree, root: &Path, cancel: &'a Cancel) -> Result<Programs<'a>> {
        let identity = |path: &Path| fs::metadata(path).map(|m| (m.dev(), m.ino())).ok();
        if identity(root).is_none() || identity(root) != identity(&tree.eprefix) {
            bail!("the tree is in {} and not at {}", root.display(), tree.eprefix.display());
        }
        let user = match nix::unistd::geteuid().is_root() {
            true => Some(Prefix::open(&tree.eprefix)?.user),
            false => None,
        };
        let work = tempfile::Builder::new().prefix("zfs-prefix-audit-").tempdir();
        let work = work.context("a directory for the probe")?;
        if let Some(user) = user {
            chown(work.path(), Some(user.uid), Some(user.gid)).context("chown")?;
        }
        Ok(Programs { eprefix: &tree.eprefix, user, cancel, work })
    }

    /// The directory that programs are run in, theirs to write to.
    pub(crate) fn work(&self) -> &Path {
        self.work.path()
    }

    /// The output of a program, both streams.
    ///
    /// # Errors
    /// It cannot be run, hangs, or ends with another status than 0.
    pub(crate) fn run(&self, program: &Path, args: &[&str]) -> Result<String> {
        let in_prefix = |dir: &str| self.eprefix.join(dir).display().to_string();
        let shell = in_prefix("bin/bash");
        let mut run = Run::new(program)
            .args(args)
            .dir(self.work())
            .idle(PATIENCE)
            .env("PATH", SEARCH_PATH.map(in_prefix).join(":"))
            .env("EPREFIX", self.eprefix)
            .env("HOME", self.work())
            .env("TMPDIR", self.work())
            .env("SHELL", &shell)
            .env("CONFIG_SHELL", &shell)
            .env("LC_ALL", "C")
            .env("TERM", "dumb");
        if let Some(user) = self.user {
            run = run.user(user);
        }
        run.output(self.cancel)
    }
}
