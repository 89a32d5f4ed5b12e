//! One build, from an empty work directory to a published tree.

use std::path::{Path, PathBuf};

use anyhow::Result;
use tracing::{info, warn};

use super::attempt::{Fetched, Made, Material, WithTree};
use super::binpkg::Package;
use super::job::{Job, Tarball};
use super::plan::Plan;
use super::progress::Counts;
use super::stage::Stage;
use super::steps::Steps;
use super::tree::Preparing;
use super::workdir::WorkDir;
use super::{Build, Expected, compile, depmod, harvest, jobs, made_from, verify};
use crate::exit::{self, Exit};
use crate::kernel::{Kconfig, Tree, compiler_mismatch};
use crate::module::refusal::Policy;
use crate::prefix::enter::Place;
use crate::store::{self, MANIFEST_VERSION, Manifest, Staging};
use crate::userland::harvest::Origin;
use crate::{fail, userland};

/// The modules that a recipe made, and the directory with OpenZFS's programs.
type Left = (Vec<PathBuf>, Option<PathBuf>);

impl Build<'_> {
    /// Builds and publishes. Returns the published tree.
    pub(super) fn build(&mut self, plan: &Plan) -> Result<PathBuf> {
        let work = WorkDir::make(&self.layout, &self.release, plan.prefix.user)?;
        let with_tree = self.keyed(&plan.key(), |b| {
            // Fetch first: it is quick, and may show that OpenZFS does not support this kernel.
            let fetched = b.staged(Stage::Fetch, |b| b.fetch(plan, work))?;
            b.staged(Stage::Kernel, |b| b.tree(fetched))
        })?;
        let key = with_tree.candidate.key.clone();
        self.keyed(&key, |b| {
            let made = b.staged(Stage::Build, |b| b.make(with_tree))?;
            let tree = b.publish(&made)?;
            b.settle(plan, &tree)?;
            // If this fails, only disk space is lost. The next build removes it too.
            made.from.fetched.work.remove().unwrap_or_else(|e| warn!("{e:#}"));
            Ok(tree)
        })
    }

    /// Does `work` with this key in every journal entry.
    fn keyed<T>(&mut self, key: &str, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let span = tracing::info_span!("key", zfs_prefix_key = %key);
        let _entered = span.enter();
        work(self)
    }

    fn publish(&mut self, made: &Made) -> Result<PathBuf> {
        let Made { from: WithTree { fetched, candidate, prepared }, modules, programs } = made;
        let Fetched { plan, work, .. } = fetched;
        let programs = programs.as_deref();
        let staging = Staging::new(&self.layout, &self.release)?;
        let owners = fetched.owners();
        let harvested = self.staged(Stage::Harvest, |b| {
            if let Some(dir) = programs {
                let origin = Origin { top: &work.top, dir: dir.to_owned(), owners: owners.clone() };
                info!("{} files of OpenZFS's programs", origin.copy(&staging)?);
            }
            harvest::copy(&work.top, modules, &staging, &b.release)
        })?;
        self.staged(Stage::Depmod, |b| {
            depmod::run(&b.host.root, &staging, &b.release, prepared, &b.cancel)
        })?;
        let (verified, userland_version) = self.staged(Stage::Verify, |b| {
            let expected = Expected::of(b.host, &b.release, &prepared.tree.symvers)?;
            let files: Vec<(&Path, &[u8])> =
                harvested.iter().map(|h| (h.path.as_path(), h.bytes.as_slice())).collect();
            let verified = verify(&files, &expected)?;
            let modules = &verified.zfs_version;
            // Before the compilation the version was perhaps a guess. So ask once more.
            if programs.is_none() && plan.userland.wanted(Some(modules))? {
                fail!(
                    Exit::Refused,
                    "the modules are of OpenZFS {modules}, the system's own programs are of another version, and this build made no programs: set zfs.version to the version of the programs, or zfs.userland = \"prefix\""
                );
            }
            let programs =
                programs.map(|_| userland::verify(staging.dir(), &owners, modules)).transpose()?;
            Ok((verified, programs))
        })?;
        self.staged(Stage::Publish, |b| {
            let manifest = Manifest {
                version: MANIFEST_VERSION,
                kernel_release: b.release.clone(),
                kernel_build_id: plan.build_id.clone(),
                vermagic: verified.vermagic,
                key: candidate.key.clone(),
                zfs_version: verified.zfs_version,
                userland_version,
                recipe: fetched.material.name().to_owned(),
                built_by: Some(format!("zfs-prefix {}", crate::VERSION)),
                created: store::unix_now(),
                inputs: made.from.inputs(),
                files: store::entries(staging.dir())?,
            };
            staging.publish(&manifest)
        })
    }

    /// Prepares the kernel's build tree, in the first way that succeeds.
    fn tree<'p>(&mut self, fetched: Fetched<'p>) -> Result<WithTree<'p>> {
        let plan = fetched.plan;
        let mut preparing = Preparing {
            host: self.host,
            release: &self.release,
            layout: &self.layout,
            prefix: &plan.prefix,
            compiler: &plan.compiler,
            build_id: &plan.build_id,
            found: &plan.trees.found,
            work: &fetched.work,
            early: self.options.early,
            jobs: self.jobs(),
            steps: Steps { cancel: &self.cancel, progress: &mut self.progress },
        };
        let (candidate, prepared) = preparing.first(&plan.trees)?;
        let kernels = prepared.tree.compiler();
        if let Some(text) = kernels.and_then(|kernel| compiler_mismatch(&kernel, &plan.compiler)) {
            warn!("kernel {}: {text}", self.release);
        }
        Ok(WithTree { fetched, candidate, prepared })
    }

    /// Runs the recipe, or merges the package.
    fn make<'p>(&mut self, from: WithTree<'p>) -> Result<Made<'p>> {
        let (modules, programs) = match &from.fetched.material {
            Material::Package(package) => self.merge(&from, package)?,
            Material::Ebuild => self.compile(&from, |job| job.portage())?,
            Material::Tarball(path) => {
                self.compile(&from, |job| job.make(path, &from.prepared.tree))?
            }
        };
        Ok(Made { from, modules, programs })
    }

    /// Merges a binary package. Returns its modules and the directory of its programs. Does not
    /// strip the modules: that would cut off their signatures.
    fn merge(&mut self, from: &WithTree, package: &Package) -> Result<Left> {
        let (fetched, tree) = (&from.fetched, &from.prepared.tree);
        let top = &fetched.work.top;
        let readable = fetched.files();
        let place = Place { work: Some(top.clone()), readable, ..Place::default() };
        let installed = self.job(fetched, Some(tree), place.clone()).merge_package(package)?;
        let modules = harvest::find(&installed, &self.release)?;
        made_from::check(top, &modules, &from.made_from(), package.url())?;
        let programs = self.job(fetched, Some(tree), place).bind(&installed)?;
        Ok((modules, programs))
    }

    /// Runs the recipe. Returns its modules, stripped, and the directory of its programs.
    fn compile(
        &mut self,
        from: &WithTree,
        recipe: impl FnOnce(&mut Job) -> Result<PathBuf>,
    ) -> Result<Left> {
        let running = self.release == self.host.kernel_release && !self.host.container;
        let demand = running.then(|| Policy::read(self.host).demands_signatures()).flatten();
        if let Some(why) = demand {
            warn!(
                "this kernel takes signed modules only ({why}), and what is compiled here is not signed: it will not load"
            );
        }
        let tree = &from.prepared.tree;
        let mut place = from.prepared.place.clone();
        place.readable.extend(from.fetched.tarball.iter().flat_map(Tarball::files));
        let release = self.release.clone();
        let counts = self.layout.cache().join("progress.json");
        let mut job = self.job(&from.fetched, Some(tree), place);
        job.expected = read_counts(&counts);
        let installed = recipe(&mut job).map_err(|error| trimmed(error, tree))?;
        let modules = harvest::find(&installed, &release)?;
        compile::strip(&job, &modules)?;
        let programs = job.bind(&installed)?;
        // The next build's STATUS uses this as an estimate. It does no harm if it is lost.
        if let Ok(json) = serde_json::to_vec(&job.steps.progress.counts()) {
            store::write_atomic(&counts, &json).unwrap_or_else(|e| warn!("{e:#}"));
        }
        Ok((modules, programs))
    }

    pub(super) fn job<'b>(
        &'b mut self,
        fetched: &'b Fetched,
        tree: Option<&'b Tree>,
        place: Place,
    ) -> Job<'b> {
        Job {
            prefix: &fetched.plan.prefix,
            tree,
            recipe: &fetched.plan.recipe,
            tarball: fetched.tarball.as_ref(),
            programs: fetched.programs.as_deref(),
            work: &fetched.work,
            place,
            jobs: self.jobs(),
            expected: None,
            steps: Steps { cancel: &self.cancel, progress: &mut self.progress },
        }
    }

    fn jobs(&self) -> u32 {
        jobs::wanted(self.host, self.settings, self.options.jobs)
    }
}

/// Explains an error about missing exports, if the kernel's configuration trims them.
fn trimmed(error: anyhow::Error, tree: &Tree) -> anyhow::Error {
    let config = Kconfig::parse(&tree.config);
    let trims = config.is_ok_and(|config| config.is_on("TRIM_UNUSED_KSYMS"));
    if exit::of(&error) != Exit::NoSymvers || !trims {
        return error;
    }
    error.context(
        "CONFIG_TRIM_UNUSED_KSYMS=y: this kernel exports only what its own modules use, and OpenZFS \
         needs more: it needs another kernel",
    )
}

fn read_counts(path: &Path) -> Option<Counts> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Failure;

    #[test]
    fn of_a_kernel_with_trimmed_exports_that_is_said_where_exports_were_missing() {
        for (config, exit, said) in [
            ("CONFIG_TRIM_UNUSED_KSYMS=y\n", Exit::NoSymvers, true),
            ("CONFIG_TRIM_UNUSED_KSYMS=y\n", Exit::BuildFailed, false),
            ("# CONFIG_TRIM_UNUSED_KSYMS is not set\n", Exit::NoSymvers, false),
        ] {
            let tree = Tree {
                output: "/b".into(),
                source: "/b".into(),
                config: config.into(),
                symvers_text: String::new(),
                symvers: crate::kernel::Symvers::default(),
            };
            let error = trimmed(Failure::new(exit, "make: failed").into(), &tree);
            assert_eq!(exit::of(&error), exit, "{config}");
            let text = format!("{error:#}");
            assert_eq!(text.starts_with("CONFIG_TRIM_UNUSED_KSYMS=y: "), said, "{text}");
            assert!(text.ends_with("make: failed"), "{text}");
        }
    }
}
