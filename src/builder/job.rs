//! What a recipe gets to work with.

use std::path::PathBuf;
use std::time::Duration;

use super::progress::Counts;
use super::recipe::Recipe;
use super::steps::Steps;
use super::workdir::WorkDir;
use crate::kernel::Tree;
use crate::prefix::Prefix;
use crate::prefix::enter::Place;
use crate::source::Repository;

/// How long Portage may take to answer.
pub(super) const ANSWER: Duration = Duration::from_secs(120);

/// The OpenZFS tarball of `zfs.source`, fetched.
#[derive(Debug)]
pub struct Tarball {
    /// Where it is.
    pub path: PathBuf,
    /// For the recipe `portage`: the repository that has an ebuild for it.
    pub repository: Option<Repository>,
    /// Its version, as its META says it.
    pub version: Option<String>,
}

impl Tarball {
    /// Its files that programs of the prefix have to see.
    pub fn files(&self) -> Vec<PathBuf> {
        let repository = self.repository.as_ref().map(|repository| repository.dir.clone());
        std::iter::once(self.path.clone()).chain(repository).collect()
    }
}

/// What a recipe gets.
pub struct Job<'a> {
    /// The prefix it runs in.
    pub prefix: &'a Prefix,
    /// The kernel build tree, once there is one.
    pub tree: Option<&'a Tree>,
    /// How the modules are made.
    pub recipe: &'a Recipe,
    /// The OpenZFS tarball of zfs.source.
    pub tarball: Option<&'a Tarball>,
    /// The package of OpenZFS's programs, where they are built too.
    pub programs: Option<&'a str>,
    /// Where it works.
    pub work: &'a WorkDir,
    /// What of the machine its programs can see.
    pub place: Place,
    /// Compiler jobs at once.
    pub jobs: u32,
    /// The counts of an earlier build.
    pub expected: Option<Counts>,
    /// Runs it, step by step.
    pub steps: Steps<'a>,
}
