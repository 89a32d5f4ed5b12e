//! The steps below the prefix's parent. Each has the rights of the owner of what it changes: this
//! program runs itself again as that user (`zfs-prefix prefix step …`).

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Subcommand;

use super::{place, unpack};
use crate::exit::{Exit, Failure};
use crate::process::{Cancel, Run, User, describe};

/// A line of progress begins with this. No message does.
const PROGRESS: &str = "@";
/// The errors of the admin command begin with this.
const NAME: &str = "zfs-prefix: ";

/// One step.
#[derive(Clone, Debug, Subcommand)]
pub enum Step {
    /// Make the temporary directory; prints its path
    Make {
        /// EPREFIX
        #[arg(long)]
        target: PathBuf,
        /// Its owner
        #[arg(long)]
        uid: u32,
        /// The owner's group
        #[arg(long)]
        gid: u32,
    },
    /// Unpack the archive into it
    Unpack {
        /// The archive
        #[arg(long)]
        archive: PathBuf,
        /// The temporary directory
        #[arg(long)]
        dir: PathBuf,
        /// Where the tree will be
        #[arg(long)]
        eprefix: PathBuf,
        /// What it says of itself, JSON
        #[arg(long)]
        mark: String,
    },
    /// Rename it to the prefix's path; prints where the old one is
    Place {
        /// The temporary directory
        #[arg(long)]
        dir: PathBuf,
        /// EPREFIX
        #[arg(long)]
        target: PathBuf,
        /// What is there is kept beside it
        #[arg(long)]
        replace: bool,
    },
    /// Remove temporary directories
    Clean {
        /// EPREFIX
        #[arg(long)]
        target: PathBuf,
        /// Its owner
        #[arg(long)]
        uid: u32,
    },
}

impl Step {
    /// Does the step with the rights of this process. Returns the path that the step prints, or
    /// nothing.
    ///
    /// # Errors
    /// Those of the step.
    pub fn run(&self) -> Result<String> {
        let shown = |path: PathBuf| path.display().to_string();
        match self {
            Step::Make { target, uid, gid } => {
                place::make(target, User { uid: *uid, gid: *gid }).map(shown)
            }
            Step::Unpack { archive, dir, eprefix, mark } => {
                let said =
                    |done: &unpack::Done| println!("{PROGRESS}{} {}", done.files, done.bytes);
                unpack::unpack(archive, dir, eprefix, mark, said).map(|_| String::new())
            }
            Step::Place { dir, target, replace } => place::place(dir, target, *replace).map(shown),
            Step::Clean { target, uid } => place::clean(target, *uid).map(|()| String::new()),
        }
    }

    fn arguments(&self) -> Vec<OsString> {
        let mut all: Vec<OsString> = ["prefix", "step"].map(OsString::from).into();
        let mut add = |words: &[&dyn AsRef<std::ffi::OsStr>]| {
            all.extend(words.iter().map(|word| word.as_ref().to_owned()));
        };
        match self {
            Step::Make { target, uid, gid } => {
                add(&[&"make", &"--target", target]);
                add(&[&"--uid", &uid.to_string(), &"--gid", &gid.to_string()]);
            }
            Step::Unpack { archive, dir, eprefix, mark } => {
                add(&[&"unpack", &"--archive", archive, &"--dir", dir]);
                add(&[&"--eprefix", eprefix, &"--mark", mark]);
            }
            Step::Place { dir, target, replace } => {
                add(&[&"place", &"--dir", dir, &"--target", target]);
                if *replace {
                    add(&[&"--replace"]);
                }
            }
            Step::Clean { target, uid } => {
                add(&[&"clean", &"--target", target, &"--uid", &uid.to_string()]);
            }
        }
        all
    }
}

/// Runs the steps with the right user.
#[derive(Debug)]
pub(super) struct Hands<'a> {
    pub(super) exe: &'a Path,
    pub(super) user: User,
    pub(super) parent_is_roots: bool,
}

impl Hands<'_> {
    /// Does a step in the prefix's parent, as its owner.
    pub(super) fn in_parent(&self, step: &Step, cancel: &Cancel) -> Result<String> {
        if self.parent_is_roots { step.run() } else { self.as_owner(step, cancel, &mut |_| {}) }
    }

    /// Does a step as the prefix's owner. Lines of progress go to `sink`.
    pub(super) fn as_owner(
        &self,
        step: &Step,
        cancel: &Cancel,
        sink: &mut dyn FnMut(&str),
    ) -> Result<String> {
        let mut said = Vec::new();
        let run = Run::new(self.exe).args(step.arguments()).user(self.user);
        let ended = run.lines(cancel, |line| match line.strip_prefix(PROGRESS) {
            Some(progress) => sink(progress),
            None => said.push(line.to_owned()),
        })?;
        let text = said.join("\n");
        if ended.cancelled {
            anyhow::bail!("stopped by a signal");
        }
        match ended.status.code() {
            Some(0) => Ok(text),
            Some(code) if !text.is_empty() => {
                let message = text.strip_prefix(NAME).unwrap_or(&text);
                Err(Failure::new(exit_of(code), message).into())
            }
            _ => anyhow::bail!(
                "unpacking as user {}: {} {text}",
                self.user.uid,
                describe(ended.status)
            ),
        }
    }
}

/// The exit status of a step, from the number that its process ended with.
fn exit_of(code: i32) -> Exit {
    let known = [Exit::PrefixIncomplete, Exit::Refused, Exit::NoSpace];
    known.into_iter().find(|exit| i32::from(exit.code()) == code).unwrap_or(Exit::Other)
}
