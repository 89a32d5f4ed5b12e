//! The toolchain prefix (EPREFIX): whose it is, how it is entered, Portage inside it. It belongs
//! to an unprivileged user; everything in it is run as that user.

pub mod portage;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::build::command::{Cancel, Run, User};
use crate::exit::{Exit, WithExit};
use crate::fail;

/// A prefix and its owner.
#[derive(Clone, Debug)]
pub struct Prefix {
    /// EPREFIX, as configured: programs in it were built for exactly this path.
    pub path: PathBuf,
    /// Its owner.
    pub user: User,
    /// The owner's name, or the number where the host has no passwd entry.
    pub user_name: String,
}

impl Prefix {
    /// The prefix at `path`.
    ///
    /// # Errors
    /// [`Exit::PrefixIncomplete`]: no directory there, or it belongs to root.
    pub fn open(path: &Path) -> Result<Prefix> {
        let meta = fs::metadata(path)
            .with_context(|| {
                format!("no prefix at {}; provision one or set prefix.path", path.display())
            })
            .exit(Exit::PrefixIncomplete)?;
        if !meta.is_dir() {
            fail!(Exit::PrefixIncomplete, "the prefix {} is not a directory", path.display());
        }
        if meta.uid() == 0 {
            fail!(
                Exit::PrefixIncomplete,
                "the prefix {0} belongs to root; builds do not run as root: chown -R it to an unprivileged user",
                path.display()
            );
        }
        let name = nix::unistd::User::from_uid(meta.uid().into()).ok().flatten().map(|u| u.name);
        Ok(Prefix {
            path: path.to_owned(),
            user: User { uid: meta.uid(), gid: meta.gid() },
            user_name: name.unwrap_or_else(|| meta.uid().to_string()),
        })
    }

    /// PATH inside: the prefix first, then the host.
    pub fn search_path(&self) -> String {
        let prefix = self.path.display();
        ["usr/bin", "bin", "usr/sbin", "sbin"]
            .map(|d| format!("{prefix}/{d}"))
            .into_iter()
            .chain(["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(str::to_owned))
            .collect::<Vec<_>>()
            .join(":")
    }

    /// The program `name` as the prefix finds it.
    ///
    /// # Errors
    /// [`Exit::PrefixIncomplete`]: neither the prefix nor the host has it.
    pub fn program(&self, name: &str) -> Result<PathBuf> {
        let path = self.search_path();
        let found = path.split(':').map(|d| Path::new(d).join(name)).find(|p| p.is_file());
        match found {
            Some(path) => Ok(path),
            None => fail!(
                Exit::PrefixIncomplete,
                "{name} is not in the prefix {} (looked in {path})",
                self.path.display()
            ),
        }
    }

    /// A command in the prefix: its owner, a clean environment, `home` as HOME and TMPDIR.
    ///
    /// # Errors
    /// As [`Prefix::program`].
    pub fn run(&self, program: &str, home: &Path) -> Result<Run> {
        Ok(Run::new(self.program(program)?)
            .user(self.user)
            .dir(home)
            .env("PATH", self.search_path())
            .env("HOME", home)
            .env("TMPDIR", home)
            .env("USER", &self.user_name)
            .env("LOGNAME", &self.user_name)
            .env("SHELL", "/bin/bash")
            .env("LC_ALL", "C")
            .env("TERM", "dumb"))
    }

    /// The first line of `gcc --version`: part of the key.
    ///
    /// # Errors
    /// [`Exit::PrefixIncomplete`]: no compiler, or it does not run.
    pub fn compiler(&self, cancel: &Cancel) -> Result<String> {
        let text = self
            .run("gcc", Path::new("/"))?
            .arg("--version")
            .output(cancel)
            .context("the prefix's compiler")
            .exit(Exit::PrefixIncomplete)?;
        Ok(text.lines().next().unwrap_or_default().to_owned())
    }

    /// Links `${EPREFIX}/lib/modules/<release>` to `tree`'s module directory, with the owner's
    /// rights: the directory is the user's, and root follows nothing in it.
    ///
    /// # Errors
    /// The link cannot be made; the published tree is not touched by that.
    pub fn link_modules(&self, release: &crate::kernel::Release, tree: &Path) -> Result<()> {
        let dir = self.path.join("lib/modules");
        let target = tree.join("lib/modules").join(release.as_str());
        let script = "mkdir -p \"$1\" && ln -sfnT \"$2\" \"$1/$3\"";
        self.run("sh", Path::new("/"))?
            .args(["-c", script, "sh"])
            .arg(&dir)
            .arg(&target)
            .arg(release.as_str())
            .output(&Cancel::default())
            .with_context(|| format!("{}/{release}: cannot be linked to the store", dir.display()))
            .map(drop)
    }
}
