//! The builder: plan -> stages -> staging tree -> verification -> publishing.

mod attempt;
mod binhost;
mod binpkg;
mod compile;
mod depmod;
mod fetching;
pub(crate) mod harvest;
mod job;
mod jobs;
mod made_from;
mod making;
mod output;
mod packages;
mod plan;
mod programs;
pub mod progress;
mod recipe;
mod stage;
mod steps;
mod tree;
mod verify;
pub(crate) mod workdir;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tracing::{info, warn};

pub use plan::digest_paths;
pub use tree::{Prepared, prepare as prepare_tree, tree_dir, why_none as why_no_tree};
pub use verify::{Expected, verify};

use crate::config::Settings;
use crate::exit::{self, Exit, Failure};
use crate::fail;
use crate::host::{Host, Release};
use crate::load::{self, Hold};
use crate::log::id;
use crate::pools::absent::{self, Directory};
use crate::process::{Cancel, Interrupted};
use crate::store::{self, FailureRecord, Holder, Layout, Lock};
use plan::Plan;
use progress::Progress;
use stage::Stage;

/// What `zfs-build` was asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// The kernel to build for; the running one if none.
    pub release: Option<Release>,
    /// Build although the same inputs are published, or failed a while ago.
    pub force: bool,
    /// How many compiler jobs run at once; overrides the configuration and our own choice.
    pub jobs: Option<u32>,
    /// The boot waits for this build: never ask the service manager for more time.
    pub early: bool,
    /// This program. It runs itself to read the recipe with the owner's rights.
    pub exe: PathBuf,
}

/// Builds and publishes the modules of one kernel, or finds them published. Sends READY=1 to the
/// service manager before it returns `Ok`.
///
/// # Errors
/// With its exit status. A failure record is left, unless the inputs are not to blame. A build that
/// takes longer than `build.timeout` is [`Exit::BuildFailed`]; its processes are ended and its work
/// directory is removed.
pub fn run(host: &Host, settings: &Settings, options: &Options, cancel: &Cancel) -> Result<()> {
    let release = options.release.clone().unwrap_or_else(|| host.kernel_release.clone());
    let span = tracing::info_span!("build", zfs_prefix_kernel = %release);
    let _entered = span.enter();
    let mut build = Build {
        host,
        settings,
        options: options.clone(),
        cancel: cancel.within(settings.build.timeout),
        layout: Layout::new(&host.root),
        release,
        key: String::new(),
        stage: Stage::Plan,
        progress: Progress::new(!options.early),
    };
    let result = build.run().map_err(|error| build.why(error));
    result.inspect_err(|error| build.record(error))
}

struct Build<'a> {
    host: &'a Host,
    settings: &'a Settings,
    options: Options,
    /// Set by a signal, or after `build.timeout`.
    cancel: Cancel,
    layout: Layout,
    release: Release,
    key: String,
    stage: Stage,
    progress: Progress,
}

impl Build<'_> {
    /// What a build that was stopped failed of. We ended its command: so the signal or the time is
    /// the reason, whatever the command said.
    fn why(&self, error: anyhow::Error) -> anyhow::Error {
        let interrupted = error.chain().any(|cause| cause.is::<Interrupted>());
        if self.cancel.is_signalled() {
            let stopped = "the build was stopped by a signal";
            return if interrupted { error } else { error.context(stopped) };
        }
        if !self.cancel.is_set() {
            return error;
        }
        self.clear();
        let text = format!(
            "stage {}: ended: the build was not done after {} s (build.timeout). Nothing was published; the journal has its output. If it only needs more time, raise build.timeout",
            self.stage.name(),
            self.settings.build.timeout.as_secs()
        );
        Failure::new(Exit::BuildFailed, text).into()
    }

    fn run(&mut self) -> Result<()> {
        let _lock = Lock::take(&self.layout, &Holder::Build(self.release.to_string()))?;
        // `zfs-prefix build --force` leaves this file for the build that it starts.
        self.options.force |= taken(&self.layout.force(&self.release))?;
        if self.release == self.host.kernel_release {
            taken(&self.layout.published())?;
        }
        if !self.options.force
            && let Some((message_id, text)) = self.not_wanted()?
        {
            info!(message_id, "{text}");
            self.progress.ready(&text);
            return Ok(());
        }
        let directories = [Directory::State, Directory::Cache, Directory::Prefix];
        absent::refuse(self.host, self.settings, &directories)?;
        let plan = self.staged(Stage::Plan, |b| {
            Plan::make(b.host, b.settings, &b.release, &b.options.exe, &b.cancel)
        })?;
        self.key = plan.key();
        for (place, candidate) in plan.trees.possible.iter().enumerate() {
            let span = tracing::info_span!("key", zfs_prefix_key = %candidate.key);
            let _entered = span.enter();
            if self.published(&plan, &candidate.key, place == 0)? {
                let text = format!("modules for kernel {} are published already", self.release);
                info!("{text} (key {})", candidate.key);
                if self.has_to_be_loaded() {
                    store::write_atomic(&self.layout.published(), b"")?;
                }
                self.progress.ready(&text);
                return Ok(());
            }
        }
        self.hold_back()?;
        let tree = self.build(&plan)?;
        if self.release == self.host.kernel_release && !self.cancel.is_signalled() {
            match self.hold() {
                None => store::write_atomic(&self.layout.published(), b"")?,
                Some(hold) => info!("zfs is not loaded: {}", hold.why_not_loaded()),
            }
        }
        let text = format!("published modules for kernel {}", self.release);
        info!(message_id = id::PUBLISHED, "{text} in {}", tree.display());
        if self.release == self.host.kernel_release && self.host.path("/sys/module/zfs").exists() {
            info!("ZFS is loaded already; what was published now is used from the next boot on");
        }
        self.progress.ready(&text);
        Ok(())
    }

    /// Why nothing is built unless that is forced, and its MESSAGE_ID: the system has its own module,
    /// or the module would not be loaded.
    fn not_wanted(&self) -> Result<Option<(&'static str, String)>> {
        let ships = load::ships(self.host, &self.release)?;
        for other in &ships.others {
            info!(message_id = id::NOT_COUNTED, "not counted as the system's own module: {other}");
        }
        if let Some(shipped) = ships.module {
            let text = format!("the system ships {}: nothing to build", shipped.path.display());
            return Ok(Some((id::STAND_ASIDE, text)));
        }
        let held = self.hold().map(|hold| format!("nothing is built: {}", hold.why_not_built()));
        Ok(held.map(|text| (id::HELD_BACK, text)))
    }

    /// What keeps the modules from being loaded.
    fn hold(&self) -> Option<Hold> {
        load::holds(self.host, &self.release).into_iter().next()
    }

    /// Whether modules that were published before have to be loaded once more: they are not loaded,
    /// so something went wrong with the load in this boot. Before the import (`early`) the boot
    /// itself loads them.
    fn has_to_be_loaded(&self) -> bool {
        let running = self.release == self.host.kernel_release;
        let loaded = self.host.path("/sys/module/zfs").exists();
        let may_be = running && !loaded && !self.options.early && !self.cancel.is_signalled();
        may_be && self.hold().is_none()
    }

    /// Whether a sound tree with this key exists. If so, `current` points to it afterwards. A tree
    /// that is not the `first` choice counts only if it was built for the same plan: then the
    /// better choices were tried.
    fn published(&self, plan: &Plan, key: &str, first: bool) -> Result<bool> {
        let tree = self.layout.tree(&self.release, key);
        let owner = nix::unistd::geteuid().as_raw();
        store::check_directories(&self.layout, &self.release, owner)?;
        if !tree.exists() || self.options.force {
            return Ok(false);
        }
        match store::check_published(&self.layout, &self.release, key, owner) {
            Err(error) => {
                warn!(
                    message_id = id::TREE_DAMAGED,
                    "the published tree is damaged and will be built again: {error:#}"
                );
                return Ok(false);
            }
            Ok(manifest) if !first && manifest.inputs.get(attempt::PLAN) != Some(&plan.key()) => {
                return Ok(false);
            }
            Ok(_) => {}
        }
        if !store::is_current(&self.layout, &self.release, key, owner) {
            store::set_current(&self.layout, &self.release, key)?;
        }
        self.settle(plan, &tree)?;
        Ok(true)
    }

    /// Does what follows a publication. If power fails before, the next run does it.
    fn settle(&self, plan: &Plan, tree: &Path) -> Result<()> {
        FailureRecord::clear(&self.layout, &self.release)?;
        let link = plan.prefix.path.join("lib/modules").join(self.release.as_str());
        let wanted = tree.join("lib/modules").join(self.release.as_str());
        if std::fs::read_link(&link).is_ok_and(|target| target == wanted) {
            return Ok(());
        }
        // The link is a convenience for `modprobe -d`. Without it the modules are published too.
        plan.prefix.link_modules(&self.release, tree).unwrap_or_else(|e| warn!("{e:#}"));
        Ok(())
    }

    /// Refuses to build if the same inputs failed a short while ago.
    fn hold_back(&self) -> Result<()> {
        let record = match FailureRecord::read(&self.layout, &self.release) {
            Ok(record) => record,
            Err(error) => {
                warn!("the failure record cannot be read and is ignored: {error:#}");
                None
            }
        };
        match record {
            // A late build is a second try after a build that the boot waited for.
            Some(r) if r.early && !self.options.early => Ok(()),
            Some(r) if !self.options.force && r.holds(&self.key, store::unix_now()) => fail!(
                Exit::BackingOff,
                "not tried: the same inputs failed {} time(s), last in stage {} ({}); next try in {} s, at once with --force",
                r.attempts,
                r.stage,
                r.line(),
                r.next_try.saturating_sub(store::unix_now())
            ),
            _ => Ok(()),
        }
    }

    /// Runs one stage. The journal gets its name and duration; an error gets its name.
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
        // The record would go to the disk below the mount point.
        let nowhere = exit == Exit::PoolsAbsent;
        let stopped = self.cancel.is_signalled();
        if stopped || nowhere || matches!(exit, Exit::Locked | Exit::BackingOff) {
            return;
        }
        // Make room first: the record may go to the same full disk.
        if exit == Exit::NoSpace {
            self.make_room();
        }
        let previous = FailureRecord::read(&self.layout, &self.release).unwrap_or_default();
        let stage = self.stage.name();
        let mut record = FailureRecord::new(&self.release, &self.key, stage, exit, text);
        record.early = self.options.early;
        record.line = Some(exit::line(error));
        let pause = &self.settings.build;
        let record = record.following(previous.as_ref(), pause.backoff, pause.backoff_max);
        if let Err(error) = record.write(&self.layout) {
            warn!("the failure record cannot be written: {error:#}");
        }
    }

    /// Frees space on a full disk: removes the work directory and unpacked sources.
    fn make_room(&self) {
        self.clear();
        // Unpacked sources are large. The next build unpacks them again from the fetched files.
        removed(&self.layout.cache().join("sources/trees"));
    }

    /// Removes the work directory.
    fn clear(&self) {
        removed(&self.layout.cache().join("build").join(self.release.as_str()));
    }
}

/// Removes a directory, if it is there.
fn removed(dir: &Path) {
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            warn!("{}: cannot be removed: {e}", dir.display());
        }
        _ => {}
    }
}

/// Removes a file. Returns whether it existed.
fn taken(path: &Path) -> Result<bool> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e).with_context(|| format!("{}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_published_and_not_loaded_is_asked_for_once_more_but_not_before_the_boot_loads_it() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::below(root.path(), "6.1.0");
        let settings = Settings::default();
        let (idle, stopped) = (Cancel::default(), Cancel::default());
        let late = Cancel::after(std::time::Duration::ZERO);
        stopped.0.store(true, std::sync::atomic::Ordering::Relaxed);
        for (case, release, early, cancel, loaded, want) in [
            ("late, not loaded", "6.1.0", false, &idle, false, true),
            ("stopped", "6.1.0", false, &stopped, false, false),
            ("published when its time was over", "6.1.0", false, &late, false, true),
            ("of another kernel", "6.2.0", false, &idle, false, false),
            ("before the boot loads it", "6.1.0", true, &idle, false, false),
            ("held back", "6.1.0", false, &idle, false, false),
            ("every boot in which all is well", "6.1.0", false, &idle, true, false),
        ] {
            let line = root.path().join("etc/modprobe.d/zfs.conf");
            std::fs::create_dir_all(line.parent().unwrap()).unwrap();
            std::fs::write(line, if case == "held back" { "blacklist zfs\n" } else { "" }).unwrap();
            if loaded {
                std::fs::create_dir_all(host.path("/sys/module/zfs")).unwrap();
            }
            let build = Build {
                host: &host,
                settings: &settings,
                options: Options {
                    release: None,
                    force: false,
                    jobs: None,
                    early,
                    exe: PathBuf::new(),
                },
                cancel: cancel.clone(),
                layout: Layout::new(&host.root),
                release: release.parse().unwrap(),
                key: String::new(),
                stage: Stage::Plan,
                progress: Progress::new(false),
            };
            assert_eq!(build.has_to_be_loaded(), want, "{case}");
        }
    }
}
