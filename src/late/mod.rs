//! The late way, `zfs-prefix load --import`: what the boot had to skip because the modules were not
//! there, in OpenZFS's order and job by job.

mod choice;
mod datasets;
mod look;
mod mounts;
mod run;

use std::io::ErrorKind;
use std::time::Duration;

use anyhow::{Context, Result};
use tracing::{error, info, warn};

use crate::build::command::{Cancel, Run};
use crate::config;
use crate::exit::Exit;
use crate::fail;
use crate::host::Host;
use crate::log::id;
use crate::store::Layout;
use run::{Late, Step};

const LOAD: &str = "zfs-load.service";
const POOLS: &str = "zfs-pools.service";
/// Each only if the boot would have started it; a condition decides between the first two.
const IMPORT: [&str; 3] =
    ["zfs-import-cache.service", "zfs-import-scan.service", "zfs-import-expected.service"];
/// How long all of it may take: less than TimeoutStartSec= of the unit, so that it is said what
/// was not done.
const LIMIT: Duration = Duration::from_secs(14 * 60);
/// More than TimeoutStartSec= of zfs-load.service.
const LOAD_LIMIT: Duration = Duration::from_secs(6 * 60);
/// How long one import may take: the log of a large pool is replayed, and disks may be slow.
const IMPORT_LIMIT: Duration = Duration::from_secs(10 * 60);
/// How long anything else may.
const STEP_LIMIT: Duration = Duration::from_secs(3 * 60);

/// Loads the published modules, then starts what the boot skipped because they were not there.
/// Where nothing was loaded, nothing more is started. Exit status 0 means that nothing failed;
/// [`Exit::PoolsAbsent`] that zfs-pools.service did.
///
/// # Errors
/// There is no systemd to ask, or the modules could not be loaded.
pub fn load_and_import(host: &Host) -> Result<u8> {
    // Before the mark goes: where nobody can be asked, a later start of the unit tries again.
    let mut late = Late::new(host, LIMIT).context("nothing is loaded or imported")?;
    let layout = Layout::new(&host.root);
    for mark in [layout.published(), layout.mounts_refused(), layout.shares_refused()] {
        match std::fs::remove_file(&mark) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                return Err(e).with_context(|| format!("{}", mark.display()));
            }
            _ => {}
        }
    }
    load(&mut late)?;
    if !host.path("/sys/module/zfs").exists() {
        info!("{LOAD} loaded nothing (journalctl -eu {LOAD}): nothing is imported");
        return Ok(Exit::Done.code());
    }
    late.stage = "udev";
    udev(&mut late);
    late.stage = "import";
    for unit in IMPORT {
        late.bring_up(unit, IMPORT_LIMIT);
    }
    late.complete("zfs-import.target", IMPORT_LIMIT);
    late.stage = "mount";
    mounts::mount(&mut late);
    late.stage = "volumes";
    late.bring_up("zfs-volume-wait.service", STEP_LIMIT);
    late.complete("zfs-volumes.target", STEP_LIMIT);
    late.stage = "share";
    late.bring_up("zfs-share.service", STEP_LIMIT);
    late.stage = "zed";
    late.bring_up("zfs-zed.service", STEP_LIMIT);
    late.stage = "target";
    late.complete("zfs.target", STEP_LIMIT);
    let absent = pools(&mut late);
    dependents(&mut late);
    Ok(summary(&late, absent).code())
}

/// Whatever the boot wanted. An active unit without a module is one whose module was taken out again.
fn load(late: &mut Late<'_>) -> Result<()> {
    let loaded = late.host.path("/sys/module/zfs").exists();
    if late.bring_up_always(LOAD, !loaded, LOAD_LIMIT) == Step::Failed {
        fail!(Exit::Other, "{LOAD} failed: nothing is imported; journalctl -eu {LOAD}");
    }
    Ok(())
}

/// Rules that came with the modules, and links of disks that nobody asked for before.
fn udev(late: &mut Late<'_>) {
    if !late.host.path("/run/udev/control").exists() {
        late.say("udev", "does not run, nothing to do");
        return;
    }
    let places = ["/usr/bin/udevadm", "/bin/udevadm", "/usr/sbin/udevadm", "/sbin/udevadm"];
    let Some(udevadm) = places.iter().map(|p| late.host.path(p)).find(|p| p.is_file()) else {
        late.failed("udev", "there is no udevadm");
        return;
    };
    for args in [
        &["control", "--reload"][..],
        &["trigger", "--action=change", "--subsystem-match=block", "--subsystem-match=misc"],
        &["settle", "--timeout=60"],
    ] {
        let run = Run::new(&udevadm).args(args).within(late.left(Duration::from_secs(70)));
        let run = run.idle(Duration::from_secs(70));
        if let Err(e) = run.output(&Cancel::default()) {
            late.failed("udev", &format!("{e:#}"));
            return;
        }
    }
    late.say("udev", "rules read, block devices looked at, settled");
}

/// Whether the expected pools are there; true: they are not.
fn pools(late: &mut Late<'_>) -> bool {
    late.stage = "pools";
    late.bring_up(POOLS, STEP_LIMIT) == Step::Failed
}

/// Those who wait for the pools, and those who began without.
fn dependents(late: &mut Late<'_>) {
    let loaded = config::load(late.host);
    for note in &loaded.notes {
        warn!(message_id = id::CONFIG, "{note}");
    }
    let boot = loaded.settings.boot;
    late.stage = "require";
    for unit in &boot.require_pools_for {
        late.bring_up(unit, STEP_LIMIT);
    }
    late.stage = "restart";
    for unit in &boot.restart_after_import {
        late.bring_up_anew(unit, STEP_LIMIT);
    }
}

/// The last line, and the exit status.
fn summary(late: &Late<'_>, pools_absent: bool) -> Exit {
    let kernel = late.host.kernel_release.as_str();
    let started = match late.started.len() {
        0 => "nothing had to be started".to_owned(),
        _ => format!("started {}", late.started.join(", ")),
    };
    if late.failures.is_empty() {
        info!(
            message_id = id::LATE_DONE,
            zfs_prefix_stage = "done",
            zfs_prefix_kernel = kernel,
            "what the boot skipped for lack of ZFS is done: {started}"
        );
        return Exit::Done;
    }
    error!(
        message_id = id::LATE_INCOMPLETE,
        zfs_prefix_stage = "done",
        zfs_prefix_kernel = kernel,
        "not all is done that the boot skipped for lack of ZFS; {} failed: {}; {started}",
        late.failures.len(),
        late.failures.join("; ")
    );
    if pools_absent { Exit::PoolsAbsent } else { Exit::Other }
}
