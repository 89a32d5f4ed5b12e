//! The builder: plan -> stages -> staging tree -> verification -> publishing.

mod binpkg;
pub mod cli;
pub mod command;
mod depmod;
mod harvest;
mod jobs;
mod made_from;
pub(crate) mod network;
mod output;
mod plan;
pub mod processes;
pub mod progress;
mod reading;
mod recipe;
mod stage;
mod verify;
pub(crate) mod workdir;

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tracing::{info, warn};

pub(crate) use plan::atoms;
pub use plan::{digest_paths, tree_dir};
pub use verify::{Expected, verify};

use crate::config::{Recipe, Settings};
use crate::exit::{self, Exit};
use crate::fail;
use crate::host::Host;
use crate::kernel::Release;
use crate::log::id;
use crate::prefix::enter::Place;
use crate::store::{self, FailureRecord, Layout, Lock, MANIFEST_VERSION, Manifest, Staging};
use binpkg::{Binhost, Package};
use command::Cancel;
use plan::{Plan, make_source};
use progress::{Counts, Progress};
use stage::Stage;
use workdir::WorkDir;

/// What `zfs-build` was asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// The kernel to build for; the running one if none.
    pub release: Option<Release>,
    /// Build although the same inputs are published, or failed a while ago.
    pub force: bool,
    /// Compiler jobs at once, instead of the configuration's or our own choice.
    pub jobs: Option<u32>,
    /// This build holds up the boot: never ask the service manager for more time.
    pub early: bool,
    /// This program, to read the recipe with the owner's rights.
    pub exe: PathBuf,
}

/// SIGTERM or SIGINT ended the build: no failure of its inputs.
#[derive(Debug)]
pub struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the build was stopped by a signal; nothing was published")
    }
}

impl std::error::Error for Interrupted {}

/// Builds and publishes the modules of one kernel, or finds them published. On every path that
/// returns `Ok` the service manager has been told READY=1.
///
/// # Errors
/// With its exit status. A failure record is left, unless the inputs are not to blame.
pub fn run(host: &Host, settings: &Settings, options: &Options, cancel: &Cancel) -> Result<()> {
    let release = options.release.clone().unwrap_or_else(|| host.kernel_release.clone());
    let span = tracing::info_span!("build", zfs_prefix_kernel = %release);
    let _entered = span.enter();
    let mut build = Build {
        host,
        settings,
        options: options.clone(),
        cancel,
        layout: Layout::new(&host.root),
        release,
        key: String::new(),
        stage: Stage::Plan,
        progress: Progress::new(!options.early),
    };
    // Whatever a command said when it was ended by our signal, the signal is the reason.
    let result = build.run().map_err(|error| {
        match cancel.is_set() && !error.chain().any(|cause| cause.is::<Interrupted>()) {
            true => error.context("the build was stopped by a signal"),
            false => error,
        }
    });
    result.inspect_err(|error| build.record(error))
}

struct Build<'a> {
    host: &'a Host,
    settings: &'a Settings,
    options: Options,
    cancel: &'a Cancel,
    layout: Layout,
    release: Release,
    key: String,
    stage: Stage,
    progress: Progress,
}

impl Build<'_> {
    fn run(&mut self) -> Result<()> {
        let _lock = Lock::take(&self.layout, self.release.as_str())?;
        // `zfs-prefix build --force` leaves it for the build that it starts.
        self.options.force |= taken(&self.layout.force(&self.release))?;
        if self.release == self.host.kernel_release {
            taken(&self.layout.published())?;
        }
        if !self.options.force
            && let Some(path) = crate::load::shipped(self.host, &self.release)?
        {
            let text = format!("the system ships {}: nothing to build", path.display());
            info!(message_id = id::STAND_ASIDE, "{text}");
            self.progress.ready(&text);
            return Ok(());
        }
        let plan = self.staged(Stage::Plan, |b| {
            Plan::make(b.host, b.settings, &b.release, &b.options.exe, b.cancel)
        })?;
        self.key = plan.key.clone();
        let span = tracing::info_span!("key", zfs_prefix_key = %plan.key);
        let _entered = span.enter();
        if self.published(&plan)? {
            let text = format!("modules for kernel {} are published already", self.release);
            info!("{text} (key {})", self.key);
            self.progress.ready(&text);
            return Ok(());
        }
        self.hold_back()?;
        let tree = self.build(&plan)?;
        if self.release == self.host.kernel_release && !self.cancel.is_set() {
            store::write_atomic(&self.layout.published(), b"")?;
        }
        let text = format!("published modules for kernel {}", self.release);
        info!(message_id = id::PUBLISHED, "{text} in {}", tree.display());
        self.progress.ready(&text);
        Ok(())
    }

    /// Whether a sound tree of this key is there; makes sure that `current` points to it.
    fn published(&self, plan: &Plan) -> Result<bool> {
        let tree = self.layout.tree(&self.release, &plan.key);
        let owner = nix::unistd::geteuid().as_raw();
        store::check_directories(&self.layout, &self.release, owner)?;
        if !tree.exists() || self.options.force {
            return Ok(false);
        }
        let sound = store::check_published(&self.layout, &self.release, &plan.key, owner);
        if let Err(error) = sound {
            warn!(
                message_id = id::TREE_DAMAGED,
                "the published tree is damaged and will be built again: {error:#}"
            );
            return Ok(false);
        }
        if store::current_key(&self.layout, &self.release).as_ref() != Some(&plan.key) {
            store::set_current(&self.layout, &self.release, &plan.key)?;
        }
        self.settle(plan, &tree)?;
        Ok(true)
    }

    /// What follows a publication, and is finished by the next run if power failed before.
    fn settle(&self, plan: &Plan, tree: &Path) -> Result<()> {
        FailureRecord::clear(&self.layout, &self.release)?;
        let link = plan.prefix.path.join("lib/modules").join(self.release.as_str());
        let wanted = tree.join("lib/modules").join(self.release.as_str());
        if std::fs::read_link(&link).is_ok_and(|target| target == wanted) {
            return Ok(());
        }
        // A convenience for `modprobe -d`: the modules are published all the same.
        plan.prefix.link_modules(&self.release, tree).unwrap_or_else(|e| warn!("{e:#}"));
        Ok(())
    }

    /// Refuses to try inputs again that failed a short while ago.
    fn hold_back(&self) -> Result<()> {
        let record = match FailureRecord::read(&self.layout, &self.release) {
            Ok(record) => record,
            Err(error) => {
                warn!("the failure record cannot be read and is not heeded: {error:#}");
                None
            }
        };
        match record {
            // A late build is a second chance after one that held up the boot.
            Some(r) if r.early && !self.options.early => Ok(()),
            Some(r) if !self.options.force && r.holds(&self.key, store::unix_now()) => fail!(
                Exit::BackingOff,
                "not tried: the same inputs failed {} time(s), last in stage {} ({}); next try in {} s, at once with --force",
                r.attempts,
                r.stage,
                r.reason.lines().last().unwrap_or_default().trim(),
                r.next_try.saturating_sub(store::unix_now())
            ),
            _ => Ok(()),
        }
    }

    fn build(&mut self, plan: &Plan) -> Result<PathBuf> {
        let work = WorkDir::make(&self.layout, &self.release, plan.prefix.user)?;
        let package = match self.settings.build.recipe {
            Recipe::Portage => self.staged(Stage::Fetch, |b| b.fetch(plan, &work))?,
            Recipe::Make => None,
        };
        let (made_by, modules) = self.staged(Stage::Build, |b| match package {
            Some(package) => Ok(("binary package", b.merge(plan, &work, &package)?)),
            None => Ok((b.settings.build.recipe.name(), b.compile(plan, &work)?)),
        })?;
        let staging = Staging::new(&self.layout, &self.release)?;
        let harvested = self
            .staged(Stage::Harvest, |b| harvest::copy(&work.top, &modules, &staging, &b.release))?;
        self.staged(Stage::Depmod, |b| {
            depmod::run(&b.host.root, &staging, &b.release, &plan.tree, b.cancel)
        })?;
        let verified = self.staged(Stage::Verify, |b| {
            let expected = Expected::of(b.host, &b.release, &plan.tree.symvers)?;
            let files: Vec<(&Path, &[u8])> =
                harvested.iter().map(|h| (h.path.as_path(), h.bytes.as_slice())).collect();
            verify(&files, &expected)
        })?;
        let tree = self.staged(Stage::Publish, |b| {
            let manifest = Manifest {
                version: MANIFEST_VERSION,
                kernel_release: b.release.clone(),
                kernel_build_id: plan.build_id.clone(),
                vermagic: verified.vermagic,
                key: plan.key.clone(),
                zfs_version: verified.zfs_version,
                recipe: made_by.to_owned(),
                created: store::unix_now(),
                inputs: plan.inputs.map().clone(),
                files: store::entries(staging.dir())?,
            };
            staging.publish(&manifest)
        })?;
        self.settle(plan, &tree)?;
        // Only disk space is at stake: the next build removes it too.
        work.remove().unwrap_or_else(|e| warn!("{e:#}"));
        Ok(tree)
    }

    /// Fetches a binary package, or sources where there is none. A build that holds up the boot has
    /// no network, but may have the sources, or a binhost on its disks.
    fn fetch(&mut self, plan: &Plan, work: &WorkDir) -> Result<Option<Package>> {
        let network = !self.options.early;
        let readable = plan.binhost.iter().flat_map(Binhost::files).collect();
        let place = Place { work: Some(work.top.clone()), readable, network, ..Place::default() };
        if let Some(binhost) = &plan.binhost {
            let here = network || !self.settings.portage.asks_network();
            if !here {
                info!("{} is not asked: there is no network this early", binhost.url);
            } else {
                if self.settings.portage.asks_network() {
                    network::wait_for_network(self.cancel);
                }
                let package = self.job(plan, work, place.clone()).fetch_package(binhost)?;
                if package.is_some() {
                    return Ok(package);
                }
            }
        }
        self.job(plan, work, place).fetch()?;
        Ok(None)
    }

    /// Merges a binary package; returns the modules it left, still their owner's files. They are
    /// not stripped: that would cut off their signatures.
    fn merge(&mut self, plan: &Plan, work: &WorkDir, package: &Package) -> Result<Vec<PathBuf>> {
        let readable = plan.binhost.iter().flat_map(Binhost::files).collect();
        let place = Place { work: Some(work.top.clone()), readable, ..Place::default() };
        let installed = self.job(plan, work, place).merge_package(package)?;
        let modules = harvest::find(&installed, &self.release)?;
        made_from::check(&work.top, &modules, plan.inputs.map(), package.url())?;
        Ok(modules)
    }

    /// Runs the recipe; returns the modules it left, stripped, still its owner's files.
    fn compile(&mut self, plan: &Plan, work: &WorkDir) -> Result<Vec<PathBuf>> {
        let mut place = plan.prefix.place(&work.top, &plan.tree, self.cancel)?;
        let recipe = self.settings.build.recipe;
        if recipe == Recipe::Make {
            place.readable.push(make_source(self.settings)?);
        }
        let release = self.release.clone();
        let counts = self.layout.cache().join("progress.json");
        let mut job = self.job(plan, work, place);
        job.expected = read_counts(&counts);
        let installed = match recipe {
            Recipe::Portage => job.portage()?,
            Recipe::Make => job.make()?,
        };
        let modules = harvest::find(&installed, &release)?;
        recipe::strip(&job, &modules)?;
        // An estimate for the next build's STATUS; it may be lost.
        if let Ok(json) = serde_json::to_vec(&job.progress.counts()) {
            store::write_atomic(&counts, &json).unwrap_or_else(|e| warn!("{e:#}"));
        }
        Ok(modules)
    }

    fn job<'b>(&'b mut self, plan: &'b Plan, work: &'b WorkDir, place: Place) -> recipe::Job<'b> {
        let jobs = self.options.jobs.or(self.settings.build.jobs);
        recipe::Job {
            prefix: &plan.prefix,
            tree: &plan.tree,
            settings: self.settings,
            work,
            place,
            jobs: jobs.unwrap_or_else(|| jobs::choose(&self.host.path("/proc/meminfo"))),
            expected: None,
            cancel: self.cancel,
            progress: &mut self.progress,
        }
    }

    /// Runs one stage: its name and duration go to the journal, and into the error.
    fn staged<T>(&mut self, stage: Stage, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.cancel.is_set() {
            return Err(Interrupted.into());
        }
        let span = tracing::info_span!("stage", zfs_prefix_stage = stage.name());
        let _entered = span.enter();
        self.stage = stage;
        self.progress.stage(&format!("{} for kernel {}", stage.doing(), self.release));
        let begin = std::time::Instant::now();
        let result = work(self).with_context(|| format!("stage {}", stage.name()))?;
        let took = begin.elapsed();
        info!(
            message_id = id::STAGE_DONE,
            zfs_prefix_duration_usec = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            "stage {} done in {:.1} s",
            stage.name(),
            took.as_secs_f64()
        );
        Ok(result)
    }

    /// Writes the failure record and the last journal entry of a failed build.
    fn record(&mut self, error: &anyhow::Error) {
        let exit = exit::of(error);
        let text = format!("{error:#}");
        self.progress.failed(&text);
        if self.cancel.is_set() || matches!(exit, Exit::Locked | Exit::BackingOff) {
            return;
        }
        // First room, then the record: they may share the full disk.
        if exit == Exit::NoSpace {
            self.make_room();
        }
        let previous = FailureRecord::read(&self.layout, &self.release).unwrap_or_default();
        let stage = self.stage.name();
        let mut record = FailureRecord::new(&self.release, &self.key, stage, exit, text);
        record.early = self.options.early;
        let pause = &self.settings.build;
        let record = record.following(previous.as_ref(), pause.backoff, pause.backoff_max);
        if let Err(error) = record.write(&self.layout) {
            warn!("the failure record cannot be written: {error:#}");
        }
    }

    /// After a full disk nothing of ours stays on it.
    fn make_room(&self) {
        let dir = self.layout.cache().join("build").join(self.release.as_str());
        match std::fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                warn!("{}: cannot be removed: {e}", dir.display());
            }
            _ => {}
        }
    }
}

/// Whether the file was there; it is not any more.
fn taken(path: &Path) -> Result<bool> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e).with_context(|| format!("{}", path.display())),
    }
}

fn read_counts(path: &Path) -> Option<Counts> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}
