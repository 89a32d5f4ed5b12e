//! The two ways to compile: `portage` (emerge in the prefix) and `make` (configure and make of a
//! release tarball). Both run as the prefix's owner and leave modules below the work directory.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use tracing::info;

use super::command::{Cancel, Ended, Run, describe};
use super::output::{failing_lines, reason_of};
use super::progress::Progress;
use super::workdir::WorkDir;
use super::{Interrupted, progress::Counts};
use crate::config::Settings;
use crate::exit::{Exit, Failure};
use crate::fail;
use crate::kernel::Tree;
use crate::log::id;
use crate::prefix::Prefix;

/// Makes the modules smaller and the build faster without changing their code (facts: zfs.ko
/// 9.1 MB instead of 93.6 MB).
const NO_DEBUG_INFO: [&str; 3] =
    ["CONFIG_DEBUG_INFO=", "CONFIG_DEBUG_INFO_BTF=", "CONFIG_DEBUG_INFO_DWARF_TOOLCHAIN_DEFAULT="];

/// modules_install compresses and signs as the kernel's configuration says; both belong to whoever
/// publishes the tree.
const PLAIN_MODULES: [&str; 5] = [
    "CONFIG_MODULE_COMPRESS=",
    "CONFIG_MODULE_COMPRESS_GZIP=",
    "CONFIG_MODULE_COMPRESS_XZ=",
    "CONFIG_MODULE_COMPRESS_ZSTD=",
    "CONFIG_MODULE_SIG_ALL=",
];

/// A step that says nothing for so long hangs: less than TimeoutStartSec= of the unit, so that it
/// is recorded as a failure of its inputs.
const STALLED: Duration = Duration::from_secs(9 * 60);

/// What a recipe gets.
pub struct Job<'a> {
    /// The prefix it runs in.
    pub prefix: &'a Prefix,
    /// The kernel build tree.
    pub tree: &'a Tree,
    /// The configuration.
    pub settings: &'a Settings,
    /// Where it works.
    pub work: &'a WorkDir,
    /// Compiler jobs at once.
    pub jobs: u32,
    /// Counts of an earlier build of the same.
    pub expected: Option<Counts>,
    /// Stop when set.
    pub cancel: &'a Cancel,
    /// Where progress goes.
    pub progress: &'a mut Progress,
}

impl Job<'_> {
    /// `emerge -1v` of the configured atoms into the work directory's ROOT. Returns the directory
    /// below which the modules are.
    ///
    /// # Errors
    /// [`Exit::BuildFailed`] and its finer kinds, with the failing lines; [`Interrupted`].
    pub fn portage(&mut self) -> Result<PathBuf> {
        let atoms = super::atoms(self.settings);
        let mut econf = vec![
            format!("--with-linux={}", self.tree.source.display()),
            format!("--with-linux-obj={}", self.tree.output.display()),
        ];
        econf.extend(self.settings.portage.extra_econf.iter().cloned());
        let run = self
            .emerge()?
            .args(&atoms)
            .env("EXTRA_ECONF", econf.join(" "))
            .env("KERNEL_DIR", &self.tree.source)
            .env("KV_OUT_DIR", &self.tree.output)
            .env("MAKEOPTS", format!("-j{}", self.jobs))
            .env("TEST_JOBS", self.jobs.to_string());
        self.progress.compiling(&atoms.join(" "), self.expected);
        self.build_step(&run)?;
        Ok(self.installed())
    }

    /// `emerge` into the work directory's ROOT, without what to emerge.
    pub(super) fn emerge(&self) -> Result<Run> {
        Ok(self
            .prefix
            .run("emerge", &self.work.top)?
            .args(["--oneshot", "--verbose", "--quiet-build=n", "--color=n", "--nospinner"])
            .env("ROOT", &self.work.root)
            .env("PORTAGE_TMPDIR", &self.work.tmp)
            .env("PORTAGE_LOGDIR", self.work.top.join("log")))
    }

    /// Where emerge installs: EROOT, that is EPREFIX below ROOT.
    pub(super) fn installed(&self) -> PathBuf {
        let prefix = self.prefix.path.strip_prefix("/").unwrap_or(&self.prefix.path);
        self.work.root.join(prefix)
    }

    /// configure, make and modules_install of `zfs.source`. Returns the directory below which
    /// the modules are.
    ///
    /// # Errors
    /// As [`Job::portage`].
    pub fn make(&mut self) -> Result<PathBuf> {
        let source = super::make_source(self.settings)?;
        let run = |program: &str| {
            Ok::<Run, anyhow::Error>(self.prefix.run(program, &self.work.top)?.dir(&self.work.tmp))
        };
        let steps = [
            run("tar")?
                .args(["--extract", "--strip-components=1", "--no-same-owner", "--file"])
                .arg(source),
            run("sh")?
                .args(["./configure", "--with-config=kernel"])
                .arg(format!("--with-linux={}", self.tree.source.display()))
                .arg(format!("--with-linux-obj={}", self.tree.output.display()))
                .args(&self.settings.zfs.configure)
                // configure compiles its kernel checks with as many jobs as this says.
                .env("TEST_JOBS", self.jobs.to_string()),
            run("make")?.arg(format!("-j{}", self.jobs)).args(NO_DEBUG_INFO),
            run("make")?
                .args(["-C", "module", "modules_install", "DEPMOD=:", "INSTALL_MOD_DIR=extra"])
                .arg(format!("INSTALL_MOD_PATH={}", self.work.root.display()))
                .args(NO_DEBUG_INFO)
                .args(PLAIN_MODULES),
        ];
        self.progress.compiling(&source.to_string_lossy(), self.expected);
        for step in &steps {
            self.build_step(step)?;
        }
        Ok(self.work.root.clone())
    }

    /// Runs one step of the build, which has to succeed.
    fn build_step(&mut self, run: &Run) -> Result<()> {
        let ended = self.step(run)?;
        match ended.status.success() && !ended.stalled {
            true => Ok(()),
            false => Err(failed(run, &ended)),
        }
    }

    /// Runs a command; its output goes to the journal line by line. How it ended is no error here,
    /// except that it was cancelled.
    pub(super) fn step(&mut self, run: &Run) -> Result<Ended> {
        info!("running {}", run.shown());
        let progress = &mut *self.progress;
        let run = &run.clone().idle(STALLED);
        let ended = run.lines(self.cancel, |line| {
            progress.line(line);
            info!(message_id = id::BUILD_OUTPUT, "{line}");
        })?;
        match ended.cancelled {
            true => Err(Interrupted.into()),
            false => Ok(ended),
        }
    }
}

/// The error of a step that did not succeed: why, and the lines of its output that say so.
pub(super) fn failed(run: &Run, ended: &Ended) -> anyhow::Error {
    if ended.stalled {
        let last = ended.tail.back().map_or("", String::as_str);
        let (run, limit) = (run.shown(), STALLED.as_secs());
        let text = format!("{run}: ended: no output for {limit} s; the last line was: {last}");
        return Failure::new(Exit::BuildFailed, text).into();
    }
    let (exit, hint) = reason_of(&ended.tail);
    let lines = failing_lines(&ended.tail).join("\n  ");
    let program = run.shown();
    let program = program.split(' ').next().unwrap_or_default();
    Failure::new(
        exit,
        format!("{program}: {}{hint}; the failing lines:\n  {lines}", describe(ended.status)),
    )
    .into()
}

/// Strips debug information from the modules a recipe left, as the prefix's owner: they are its
/// files until root copies them. Modules of our own ebuild are stripped already.
///
/// # Errors
/// `strip` is not there or failed.
pub fn strip(job: &Job, modules: &[PathBuf]) -> Result<()> {
    if modules.is_empty() {
        fail!(Exit::Refused, "nothing to strip");
    }
    job.prefix
        .run("strip", &job.work.top)?
        .arg("--strip-debug")
        .args(modules)
        .output(job.cancel)
        .context("stripping debug information")
        .map(drop)
}
