//! A build tree for a person instead of a build. `zfs-prefix prefix shell --kernel-release` uses
//! it: there, packages for a fleet are made.

use std::path::Path;

use anyhow::Result;

use super::{Candidates, Prepared, Preparing};
use crate::builder::progress::Progress;
use crate::builder::steps::Steps;
use crate::builder::workdir::WorkDir;
use crate::builder::{jobs, plan};
use crate::config::Settings;
use crate::host::{Host, Release};
use crate::prefix::Prefix;
use crate::process::Cancel;
use crate::store::{Holder, Inputs, Layout, Lock};

/// Prepares the tree that a build for kernel `release` would compile against. It tries the same
/// ways in the same order, with the same guards, so the tree has the same `.config` and
/// Module.symvers. The tree is made in `dir`, a directory of root's that the caller removes
/// afterwards. No build can run until the tree is ready, because builds use the same sources.
///
/// # Errors
/// [`crate::exit::Exit::Locked`]: a build is running. Otherwise the errors of a build.
pub fn prepare(
    host: &Host,
    settings: &Settings,
    release: &Release,
    prefix: &Prefix,
    dir: &Path,
    cancel: &Cancel,
) -> Result<Prepared> {
    let layout = Layout::new(&host.root);
    let _lock = Lock::take(&layout, &Holder::Shell(release.to_string()))?;
    let build_id = plan::kernel_build_id(host, settings, release)?;
    let compiler = prefix.compiler(cancel)?;
    let trees = Candidates::of(host, settings, release, &Inputs::new())?;
    let work = WorkDir::at(&dir.join("work"), prefix.user)?;
    let mut preparing = Preparing {
        host,
        release,
        layout: &layout,
        prefix,
        compiler: &compiler,
        build_id: &build_id,
        found: &trees.found,
        work: &work,
        early: false,
        jobs: jobs::wanted(host, settings, None),
        steps: Steps { cancel, progress: &mut Progress::new(false) },
    };
    let (_, prepared) = preparing.first(&trees)?;
    Ok(prepared)
}
