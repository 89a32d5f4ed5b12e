//! The state of a build after each stage: [`Fetched`], [`WithTree`], [`Made`]. Each contains the
//! one before it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::binhost::Binhost;
use super::binpkg::Package;
use super::job::Tarball;
use super::plan::Plan;
use super::tree::{Candidate, Prepared};
use super::workdir::WorkDir;
use crate::store::Digest;

/// The name of an input in a manifest: the key of the plan that the tree was built for.
pub(super) const PLAN: &str = "plan";

/// What the modules are made of.
#[derive(Debug)]
pub(super) enum Material {
    /// A binary package, merged.
    Package(Package),
    /// Sources that emerge compiles.
    Ebuild,
    /// A tarball, compiled by configure and make.
    Tarball(PathBuf),
}

impl Material {
    /// The word for it in manifests.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Material::Package(_) => "binary package",
            Material::Ebuild => "portage",
            Material::Tarball(_) => "make",
        }
    }
}

/// After the stage `fetch`.
pub(super) struct Fetched<'p> {
    pub(super) plan: &'p Plan,
    pub(super) work: WorkDir,
    /// The OpenZFS tarball of `zfs.source`.
    pub(super) tarball: Option<Tarball>,
    pub(super) material: Material,
    /// The package of OpenZFS's programs, if they are built or merged too.
    pub(super) programs: Option<String>,
}

/// After the stage `kernel`.
pub(super) struct WithTree<'p> {
    pub(super) fetched: Fetched<'p>,
    /// How the tree was made.
    pub(super) candidate: &'p Candidate,
    pub(super) prepared: Prepared,
}

/// After the stage `build`: what a recipe made. The files still belong to the prefix's owner.
pub(super) struct Made<'p> {
    pub(super) from: WithTree<'p>,
    /// The modules.
    pub(super) modules: Vec<PathBuf>,
    /// The directory with OpenZFS's programs, already bound to the place where root publishes them.
    pub(super) programs: Option<PathBuf>,
}

impl Fetched<'_> {
    /// The files that programs of the prefix have to see, beside the work directory.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        files(self.plan, self.tarball.as_ref())
    }

    /// The directories of the prefix's owner, by every name they have.
    pub(super) fn owners(&self) -> Vec<PathBuf> {
        let named = [&self.plan.prefix.path, &self.work.top];
        let real = named.iter().filter_map(|dir| dir.canonicalize().ok());
        let all: BTreeSet<PathBuf> = named.into_iter().cloned().chain(real).collect();
        all.into_iter().collect()
    }
}

/// The files of a binhost and of a tarball.
pub(super) fn files(plan: &Plan, tarball: Option<&Tarball>) -> Vec<PathBuf> {
    let binhost = plan.recipe.binhost().into_iter().flat_map(Binhost::files);
    binhost.chain(tarball.into_iter().flat_map(Tarball::files)).collect()
}

impl WithTree<'_> {
    /// For the manifest: the inputs, and for which plan they were taken.
    pub(super) fn inputs(&self) -> BTreeMap<String, String> {
        let mut inputs = self.candidate.inputs.map().clone();
        inputs.insert(PLAN.to_owned(), self.fetched.plan.key());
        inputs
    }

    /// What a binary package has to be made from: the inputs, and the configuration and symvers of
    /// the tree, however the tree was made.
    pub(super) fn made_from(&self) -> BTreeMap<String, String> {
        let tree = &self.prepared.tree;
        let mut inputs = self.candidate.inputs.map().clone();
        for (name, bytes) in
            [("kernel-config", &tree.config[..]), ("module-symvers", tree.symvers_text.as_bytes())]
        {
            inputs.insert(name.to_owned(), Digest::of(bytes).as_str().to_owned());
        }
        inputs
    }
}
