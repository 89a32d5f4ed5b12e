//! Runs programs of a prefix that is looked at: as its owner, never as root, at the path they were
//! made for.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::tree::Tree;
use crate::exit::Exit;
use crate::fail;
use crate::host::Host;
use crate::prefix::Prefix;
use crate::prefix::enter::environment::environment;
use crate::prefix::enter::{Account, Place};
use crate::process::{Cancel, Run, User};
use crate::store::{Layout, make_dirs};

/// How long a program may say nothing.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long it may take, whatever it says.
const TIME: Duration = Duration::from_secs(300);

/// The way into a prefix, and a directory to work in.
pub(crate) struct Programs<'a> {
    eprefix: &'a Path,
    /// As root: the owner's rights and a namespace. Without it: the caller's.
    inside: Option<(Prefix, Place)>,
    cancel: &'a Cancel,
    work: TempDir,
}

impl<'a> Programs<'a> {
    /// Prepares to run programs of `tree`, which is in the directory `root`. Writes `file`, a name
    /// and a text, into the directory that they are run in.
    ///
    /// # Errors
    /// [`Exit::PrefixIncomplete`]: the tree belongs to root, or cannot be entered as it is. Or the
    /// tree is not where its programs were made for, and the caller is not root: only root could
    /// let them find it there. Others: this machine lets nobody in, or has no room.
    pub(crate) fn enter(
        tree: &'a Tree,
        root: &Path,
        host: &Host,
        cancel: &'a Cancel,
        file: Option<(&str, &str)>,
    ) -> Result<Programs<'a>> {
        let identity = |path: &Path| fs::metadata(path).map(|m| (m.dev(), m.ino())).ok();
        let in_place = identity(root).is_some() && identity(root) == identity(&tree.eprefix);
        let eprefix = tree.eprefix.as_path();
        if !nix::unistd::geteuid().is_root() {
            if !in_place {
                fail!(
                    Exit::PrefixIncomplete,
                    "the tree is in {} and not at {}",
                    root.display(),
                    eprefix.display()
                );
            }
            let work = tempfile::Builder::new().prefix("zfs-prefix-audit-").tempdir();
            let work = work.context("a directory to compile in")?;
            write(work.path(), file)?;
            return Ok(Programs { eprefix, inside: None, cancel, work });
        }
        let prefix = Prefix { path: eprefix.to_owned(), ..Prefix::open(root)? };
        let work = work(host, &prefix, file)?;
        let place = Place {
            tree: (!in_place).then(|| root.to_owned()),
            read_only: true,
            work: Some(work.path().to_owned()),
            ..Place::default()
        };
        prefix.try_to_enter(&place, cancel)?;
        Ok(Programs { eprefix, inside: Some((prefix, place)), cancel, work })
    }

    /// The directory that programs are run in. They may write to it.
    pub(crate) fn work(&self) -> &Path {
        self.work.path()
    }

    /// The output of a program, both streams.
    ///
    /// # Errors
    /// It cannot be run, hangs, prints without end, or ends with another status than 0.
    pub(crate) fn run(&self, program: &Path, args: &[&str]) -> Result<String> {
        let run = match &self.inside {
            Some((prefix, place)) => prefix.run(program, place),
            None => environment(self.eprefix, self.work(), &caller())
                .into_iter()
                .fold(Run::new(program).dir(self.work()), |run, (name, value)| {
                    run.env(name, value)
                }),
        };
        run.args(args).idle(PATIENCE).within(TIME).output(self.cancel)
    }
}

fn caller() -> String {
    let (uid, gid) = (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw());
    Account::of(User { uid, gid }).user
}

/// A directory where builds work too, since /tmp may be mounted noexec.
fn work(host: &Host, prefix: &Prefix, file: Option<(&str, &str)>) -> Result<TempDir> {
    let parent = Layout::new(&host.root).cache().join("audit");
    make_dirs(&parent)?;
    let shown = || format!("{}", parent.display());
    let dir = TempDir::with_prefix_in("", &parent).with_context(shown)?;
    // Once the directory is the owner's, a name in it may be a link to anywhere. Root writes
    // nothing more then.
    write(dir.path(), file)?;
    let (uid, gid) = (prefix.user.uid, prefix.user.gid);
    chown(dir.path(), Some(uid), Some(gid)).with_context(shown)?;
    Ok(dir)
}

fn write(dir: &Path, file: Option<(&str, &str)>) -> Result<()> {
    let Some((name, text)) = file else { return Ok(()) };
    let path = dir.join(name);
    let shown = || format!("{}", path.display());
    let mut file = File::create_new(&path).with_context(shown)?;
    file.write_all(text.as_bytes()).with_context(shown)?;
    // Whatever the umask is: the owner reads it.
    file.set_permissions(Permissions::from_mode(0o644)).with_context(shown)
}
