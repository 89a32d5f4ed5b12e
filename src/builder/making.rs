//! One build, from an empty work directory to a published tree.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tracing::{info, warn};

use super::binpkg::{Binhost, Package};
use super::job::{Job, Tarball};
use super::packages::{self, EXPERIMENTAL, configure};
use super::plan::Plan;
use super::progress::Counts;
use super::recipe;
use super::stage::Stage;
use super::steps::Steps;
use super::tree::{Candidate, Prepared, Preparing};
use super::workdir::WorkDir;
use super::{Build, Expected, depmod, harvest, jobs, made_from, verify};
use crate::config::Recipe;
use crate::exit::{self, Exit};
use crate::fetch::network;
use crate::kernel::{Kconfig, Tree, compiler_mismatch, supported};
use crate::module::refusal::Policy;
use crate::prefix::enter::Place;
use crate::source::{Obtain, ZfsSource};
use crate::store::{self, Digest, MANIFEST_VERSION, Manifest, Staging};
use crate::userland::harvest::Origin;
use crate::{fail, userland};

/// In a manifest: the key of the plan that the tree was built for.
pub(super) const PLAN: &str = "plan";

/// The order of the stages forbids it.
const NO_TREE: &str = "there is no build tree yet";

/// What a build works with, as far as it has come.
struct Attempt<'p> {
    plan: &'p Plan,
    work: WorkDir,
    tarball: Option<Tarball>,
    /// The package of OpenZFS's programs, if they are built or merged too.
    programs: Option<String>,
    /// The way to the tree that was taken, and the tree.
    tree: Option<(&'p Candidate, Prepared)>,
}

/// What a recipe left, still its owner's files.
struct Made {
    /// The modules.
    modules: Vec<PathBuf>,
    /// The directory with OpenZFS's programs, bound.
    programs: Option<PathBuf>,
}

impl Build<'_> {
    /// Builds and publishes. Returns the published tree.
    pub(super) fn build(&mut self, plan: &Plan) -> Result<PathBuf> {
        let work = WorkDir::make(&self.layout, &self.release, plan.prefix.user)?;
        let mut attempt = Attempt { plan, work, tarball: None, programs: None, tree: None };
        let package = self.keyed(&plan.key(), |b| {
            // First what is small, and may say that this kernel is not supported at all.
            let package = b.staged(Stage::Fetch, |b| b.fetch(&mut attempt))?;
            attempt.tree = Some(b.staged(Stage::Kernel, |b| b.tree(plan, &attempt.work))?);
            Ok(package)
        })?;
        let key = attempt.candidate()?.key.clone();
        self.keyed(&key, |b| {
            let (made_by, made) = b.staged(Stage::Build, |b| match package {
                Some(package) => Ok(("binary package", b.merge(&attempt, &package)?)),
                None => Ok((b.settings.build.recipe.name(), b.compile(&attempt)?)),
            })?;
            let tree = b.publish(&attempt, made_by, &made)?;
            b.settle(plan, &tree)?;
            // Only disk space is at stake: the next build removes it too.
            attempt.work.remove().unwrap_or_else(|e| warn!("{e:#}"));
            Ok(tree)
        })
    }

    /// With this key in every journal entry.
    fn keyed<T>(&mut self, key: &str, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let span = tracing::info_span!("key", zfs_prefix_key = %key);
        let _entered = span.enter();
        work(self)
    }

    fn publish(&mut self, attempt: &Attempt, by: &str, made: &Made) -> Result<PathBuf> {
        let Attempt { plan, work, .. } = attempt;
        let (modules, programs) = (&made.modules, made.programs.as_deref());
        let (candidate, prepared) = (attempt.candidate()?, attempt.prepared()?);
        let staging = Staging::new(&self.layout, &self.release)?;
        let owners = attempt.owners();
        let harvested = self.staged(Stage::Harvest, |b| {
            if let Some(dir) = programs {
                let origin = Origin { top: &work.top, dir: dir.to_owned(), owners: owners.clone() };
                info!("{} files of OpenZFS's programs", origin.copy(&staging)?);
            }
            harvest::copy(&work.top, modules, &staging, &b.release)
        })?;
        self.staged(Stage::Depmod, |b| {
            depmod::run(&b.host.root, &staging, &b.release, prepared, b.cancel)
        })?;
        let (verified, userland_version) = self.staged(Stage::Verify, |b| {
            let expected = Expected::of(b.host, &b.release, &prepared.tree.symvers)?;
            let files: Vec<(&Path, &[u8])> =
                harvested.iter().map(|h| (h.path.as_path(), h.bytes.as_slice())).collect();
            let verified = verify(&files, &expected)?;
            let modules = &verified.zfs_version;
            // What decided before anything was compiled may have been a guess.
            if programs.is_none() && plan.userland.wanted(Some(modules))? {
                fail!(
                    Exit::Refused,
                    "the modules are of OpenZFS {modules}, which the system's own programs are not, and none were built with them: set zfs.version to theirs, or zfs.userland = \"prefix\""
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
                recipe: by.to_owned(),
                created: store::unix_now(),
                inputs: attempt.inputs()?,
                files: store::entries(staging.dir())?,
            };
            staging.publish(&manifest)
        })
    }

    /// The kernel's build tree, by the first way that leads to one.
    fn tree<'p>(&mut self, plan: &'p Plan, work: &WorkDir) -> Result<(&'p Candidate, Prepared)> {
        let mut preparing = Preparing {
            host: self.host,
            release: &self.release,
            layout: &self.layout,
            prefix: &plan.prefix,
            compiler: &plan.compiler,
            build_id: &plan.build_id,
            found: &plan.trees.found,
            work,
            early: self.options.early,
            jobs: self.jobs(),
            steps: Steps { cancel: self.cancel, progress: &mut self.progress },
        };
        let (candidate, prepared) = preparing.first(&plan.trees)?;
        let kernels = prepared.tree.compiler();
        if let Some(text) = kernels.and_then(|kernel| compiler_mismatch(&kernel, &plan.compiler)) {
            warn!("kernel {}: {text}", self.release);
        }
        Ok((candidate, prepared))
    }

    /// The OpenZFS tarball of zfs.source; refused before anything is compiled when it does not support
    /// this kernel.
    fn tarball(&mut self, plan: &Plan) -> Result<Option<Tarball>> {
        let Some(source) = ZfsSource::of(self.settings)? else { return Ok(None) };
        let progress = &mut self.progress;
        let mut with = Obtain {
            layout: &self.layout,
            prefix: &plan.prefix,
            network: !self.options.early,
            cancel: self.cancel,
            report: &mut |text| progress.stage(text),
        };
        let path = source.obtain(&mut with)?;
        let repository = match self.settings.build.recipe {
            Recipe::Portage => Some(source.repository(&path, &mut with)?),
            Recipe::Make => None,
        };
        let meta = crate::source::meta(&plan.prefix, &path, self.cancel)?;
        self.check_supported(&meta)?;
        let version = packages::version_of(&meta);
        Ok(Some(Tarball { path, repository, version }))
    }

    fn check_supported(&self, meta: &str) -> Result<()> {
        let experimental = configure(self.settings).iter().any(|a| a == EXPERIMENTAL);
        supported(meta, &self.release, experimental)
    }

    /// Fetches a binary package, or sources where there is none. A build that holds up the boot has
    /// no network, but may have the sources, or a binhost on its disks.
    fn fetch(&mut self, attempt: &mut Attempt) -> Result<Option<Package>> {
        attempt.tarball = self.tarball(attempt.plan)?;
        let userland = &attempt.plan.userland;
        if self.settings.build.recipe == Recipe::Make {
            let version = attempt.tarball.as_ref().and_then(|tarball| tarball.version.as_deref());
            attempt.programs = userland.wanted(version)?.then(|| packages::PROGRAMS.to_owned());
            return Ok(None);
        }
        let network = !self.options.early;
        let binhost = attempt.plan.binhost.as_ref();
        let mut readable: Vec<_> = binhost.into_iter().flat_map(Binhost::files).collect();
        readable.extend(attempt.tarball.iter().flat_map(Tarball::files));
        let work = Some(attempt.work.top.clone());
        let place = Place { work, readable, network, ..Place::default() };
        if let Some(binhost) = binhost {
            let remote = self.settings.portage.asks_network();
            if remote && !network {
                info!("{} is not asked: there is no network this early", binhost.url);
            } else {
                if remote {
                    network::wait_for_network(self.cancel);
                }
                let package = self.job(attempt, place.clone()).fetch_package(binhost, userland)?;
                if let Some(package) = package {
                    attempt.programs.clone_from(&package.programs);
                    return Ok(Some(package));
                }
            }
        }
        self.job(attempt, place.clone()).fetch()?;
        let mut version = attempt.tarball.as_ref().and_then(|tarball| tarball.version.clone());
        // That of zfs.source was looked at already.
        if attempt.tarball.is_none()
            && let Some(tarball) = self.job(attempt, place.clone()).distfile()?
        {
            match crate::source::meta(&attempt.plan.prefix, &tarball, self.cancel) {
                Ok(meta) => {
                    self.check_supported(&meta)?;
                    version = packages::version_of(&meta);
                }
                // Another ebuild than ours, perhaps; configure looks at it too.
                Err(error) => info!("whether this kernel is supported is not known yet: {error:#}"),
            }
        }
        let mut exact = None;
        if version.is_none() {
            let atoms = exact.insert(self.job(attempt, place.clone()).exact_atoms()?);
            version = packages::version_of_modules(atoms).map(str::to_owned);
        }
        if attempt.plan.userland.wanted(version.as_deref())? {
            let atoms = match exact {
                Some(atoms) => atoms,
                None => self.job(attempt, place.clone()).exact_atoms()?,
            };
            attempt.programs = packages::wanted(&attempt.plan.userland, &atoms)?;
            self.job(attempt, place).fetch()?;
        }
        Ok(None)
    }

    /// Merges a binary package; returns the modules it left, still their owner's files. They are
    /// not stripped: that would cut off their signatures.
    fn merge(&mut self, attempt: &Attempt, package: &Package) -> Result<Made> {
        let mut readable: Vec<_> = attempt.plan.binhost.iter().flat_map(Binhost::files).collect();
        readable.extend(attempt.tarball.iter().flat_map(Tarball::files));
        let top = &attempt.work.top;
        let place = Place { work: Some(top.clone()), readable, ..Place::default() };
        let installed = self.job(attempt, place.clone()).merge_package(package)?;
        let modules = harvest::find(&installed, &self.release)?;
        made_from::check(top, &modules, &attempt.made_from()?, package.url())?;
        let programs = self.job(attempt, place).bind(&installed)?;
        Ok(Made { modules, programs })
    }

    /// Runs the recipe; returns the modules it left, stripped, still its owner's files.
    fn compile(&mut self, attempt: &Attempt) -> Result<Made> {
        let running = self.release == self.host.kernel_release && !self.host.container;
        let demand = running.then(|| Policy::read(self.host).demands_signatures()).flatten();
        if let Some(why) = demand {
            warn!(
                "this kernel takes signed modules only ({why}), and what is compiled here is not signed: it will not load"
            );
        }
        let mut place = attempt.prepared()?.place.clone();
        let recipe = self.settings.build.recipe;
        place.readable.extend(attempt.tarball.iter().flat_map(Tarball::files));
        let release = self.release.clone();
        let counts = self.layout.cache().join("progress.json");
        let mut job = self.job(attempt, place);
        job.expected = read_counts(&counts);
        let installed = match recipe {
            Recipe::Portage => job.portage(),
            Recipe::Make => job.make(),
        };
        let installed = installed.map_err(|error| trimmed(error, job.tree))?;
        let modules = harvest::find(&installed, &release)?;
        recipe::strip(&job, &modules)?;
        let programs = job.bind(&installed)?;
        // An estimate for the next build's STATUS; it may be lost.
        if let Ok(json) = serde_json::to_vec(&job.steps.progress.counts()) {
            store::write_atomic(&counts, &json).unwrap_or_else(|e| warn!("{e:#}"));
        }
        Ok(Made { modules, programs })
    }

    fn job<'b>(&'b mut self, attempt: &'b Attempt, place: Place) -> Job<'b> {
        Job {
            prefix: &attempt.plan.prefix,
            tree: attempt.tree.as_ref().map(|(_, prepared)| &prepared.tree),
            settings: self.settings,
            tarball: attempt.tarball.as_ref(),
            programs: attempt.programs.as_deref(),
            work: &attempt.work,
            place,
            jobs: self.jobs(),
            expected: None,
            steps: Steps { cancel: self.cancel, progress: &mut self.progress },
        }
    }

    fn jobs(&self) -> u32 {
        jobs::wanted(self.host, self.settings, self.options.jobs)
    }
}

impl<'p> Attempt<'p> {
    fn candidate(&self) -> Result<&'p Candidate> {
        self.tree.as_ref().map(|(candidate, _)| *candidate).context(NO_TREE)
    }

    fn prepared(&self) -> Result<&Prepared> {
        self.tree.as_ref().map(|(_, prepared)| prepared).context(NO_TREE)
    }

    /// The directories of the prefix's owner, by every name they have.
    fn owners(&self) -> Vec<PathBuf> {
        let named = [&self.plan.prefix.path, &self.work.top];
        let real = named.iter().filter_map(|dir| dir.canonicalize().ok());
        let all: BTreeSet<PathBuf> = named.into_iter().cloned().chain(real).collect();
        all.into_iter().collect()
    }

    /// For the manifest: the inputs, and for which plan they were taken.
    fn inputs(&self) -> Result<BTreeMap<String, String>> {
        let mut inputs = self.candidate()?.inputs.map().clone();
        inputs.insert(PLAN.to_owned(), self.plan.key());
        Ok(inputs)
    }

    /// What a binary package has to be made from: the inputs, with the tree as it is, by whatever
    /// way it came here.
    fn made_from(&self) -> Result<BTreeMap<String, String>> {
        let tree = &self.prepared()?.tree;
        let mut inputs = self.candidate()?.inputs.map().clone();
        for (name, bytes) in
            [("kernel-config", &tree.config[..]), ("module-symvers", tree.symvers_text.as_bytes())]
        {
            inputs.insert(name.to_owned(), Digest::of(bytes).as_str().to_owned());
        }
        Ok(inputs)
    }
}

/// Says of a compilation that lacked exports why the kernel may have none.
fn trimmed(error: anyhow::Error, tree: Option<&Tree>) -> anyhow::Error {
    let config = tree.and_then(|tree| Kconfig::parse(&tree.config).ok());
    let trims = config.is_some_and(|config| config.is_on("TRIM_UNUSED_KSYMS"));
    match exit::of(&error) == Exit::NoSymvers && trims {
        true => error.context(
            "CONFIG_TRIM_UNUSED_KSYMS=y: this kernel exports only what its own modules use, and OpenZFS needs more: it needs another kernel",
        ),
        false => error,
    }
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
            let error = trimmed(Failure::new(exit, "make: failed").into(), Some(&tree));
            assert_eq!(exit::of(&error), exit, "{config}");
            let text = format!("{error:#}");
            assert_eq!(text.starts_with("CONFIG_TRIM_UNUSED_KSYMS=y: "), said, "{text}");
            assert!(text.ends_with("make: failed"), "{text}");
        }
    }
}
