//! The late import, `zfs-prefix load --import`. It starts what the boot had to skip because the
//! modules were not there: in OpenZFS's order, one job after the other.

mod blocked;
mod choice;
mod content;
mod datasets;
mod dependents;
mod guard;
mod mounts;
mod refused;
mod run;
mod udev;
mod units;
mod verdict;

use std::io::ErrorKind;
use std::time::Duration;

use anyhow::{Context, Result};
use tracing::{error, info, warn};

use crate::config::{self, Settings};
use crate::exit::Exit;
use crate::host::Host;
use crate::log::id;
use crate::store::{Layout, Lock};
use mounts::Mounts;
use run::{Late, Step};

/// The command that catches up on everything. An operator may repeat it.
pub const AGAIN: &str = "zfs-prefix load --import";

/// Exists while the module is loaded.
const MODULE: &str = "/sys/module/zfs";
const LOAD: &str = "zfs-load.service";
const POOLS: &str = "zfs-pools.service";
const SHARE: &str = "zfs-share.service";
/// Each is started only if the boot would have started it. A condition decides between the first
/// two.
const IMPORT: [&str; 3] =
    ["zfs-import-cache.service", "zfs-import-scan.service", "zfs-import-expected.service"];
/// How long everything but one import may take. Together with the longest import, this is less than
/// TimeoutStartSec= of zfs-load-late.service, so that this program can report what it did not do.
const REST: Duration = Duration::from_secs(4 * 60);
/// More than TimeoutStartSec= of zfs-load.service.
const LOAD_LIMIT: Duration = Duration::from_secs(6 * 60);
/// The least limit for one import: ZFS replays the log of a large pool, and disks may be slow.
const IMPORT_LEAST: Duration = Duration::from_secs(10 * 60);
/// How long any other step may take.
const STEP_LIMIT: Duration = Duration::from_secs(3 * 60);

/// How long one import may take: zfs-import-expected.service keeps to pools.import-timeout.
fn import_limit(settings: &Settings) -> Duration {
    IMPORT_LEAST.max(settings.pools.import_timeout + Duration::from_secs(60))
}

/// Loads the published modules, then starts what the boot skipped because they were not there. If
/// nothing was loaded, it starts nothing more. Exit status 0 means that nothing failed,
/// [`Exit::PoolsAbsent`] that zfs-pools.service failed, and [`Exit::NothingPublished`] that there
/// is nothing to load.
///
/// # Errors
/// There is no systemd to ask, or another late import is at work.
pub fn load_and_import(host: &Host) -> Result<u8> {
    let loaded = config::load(host);
    for note in &loaded.notes {
        warn!(message_id = id::CONFIG, "{note}");
    }
    let limit = import_limit(&loaded.settings);
    let nothing = "nothing is loaded or imported";
    let _lock = Lock::late(&Layout::new(&host.root)).context(nothing)?;
    let mut late = Late::new(host, limit + REST).context(nothing)?;
    // Before there is anything to mount: any unit that is started meanwhile pulls in mount units.
    guard::hold(&mut late);
    if let Err(exit) = load(&mut late) {
        // If there is a module, somebody may have imported a pool.
        if !host.path(MODULE).exists() {
            guard::release(host)?;
        }
        summary(&late, false);
        return Ok(exit.code());
    }
    late.stage = "udev";
    udev::udev(&mut late);
    late.stage = "import";
    for unit in IMPORT {
        late.bring_up(unit, limit);
    }
    late.complete("zfs-import.target", limit);
    let absent = follow(&mut late, &loaded.settings);
    Ok(summary(&late, absent).code())
}

/// Starts zfs-load.service, whether the boot wanted it or not. If the unit is active without a
/// module, somebody has unloaded the module.
fn load(late: &mut Late<'_>) -> Result<(), Exit> {
    let module = late.host.path(MODULE);
    let step = late.bring_up_always(LOAD, !module.exists(), LOAD_LIMIT);
    if module.exists() {
        // Only now: until the module is there, every start of zfs-load-late.service is another try.
        let published = Layout::new(&late.host.root).published();
        match std::fs::remove_file(&published) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                late.failed(LOAD, &format!("{}: {e}", published.display()));
            }
            _ => {}
        }
        // A unit that failed all the same has said so.
        return if step == Step::Failed { Err(Exit::Other) } else { Ok(()) };
    }
    if step == Step::Failed {
        return Err(Exit::Other);
    }
    let why = format!("loaded nothing (journalctl -eu {LOAD}): nothing is imported");
    late.failed(LOAD, &why);
    Err(Exit::NothingPublished)
}

/// Starts all that follows an import. Returns whether expected pools are absent.
fn follow(late: &mut Late<'_>, settings: &Settings) -> bool {
    late.stage = "mount";
    let mut mounts = Mounts::begin(late);
    late.stage = "volumes";
    late.bring_up("zfs-volume-wait.service", STEP_LIMIT);
    late.complete("zfs-volumes.target", STEP_LIMIT);
    late.stage = "share";
    late.bring_up(SHARE, STEP_LIMIT);
    late.stage = "zed";
    late.bring_up("zfs-zed.service", STEP_LIMIT);
    late.stage = "target";
    late.complete("zfs.target", STEP_LIMIT);
    late.stage = "pools";
    let mut absent = late.bring_up(POOLS, STEP_LIMIT) == Step::Failed;
    let mut left = dependents::of(&settings.boot);
    // Perhaps only a key is missing that is still being loaded.
    if !(absent && mounts.is_waiting()) {
        left = dependents::start(late, left, &mounts, absent);
    }
    late.stage = "keys";
    if mounts.end(late) {
        if mounts.to_share && late.ask(SHARE).is_ok_and(|unit| unit.active == "active") {
            late.bring_up_always(SHARE, true, STEP_LIMIT);
        }
        if absent {
            late.stage = "pools";
            late.forget(POOLS);
            absent = late.bring_up_always(POOLS, false, STEP_LIMIT) == Step::Failed;
        }
        dependents::start(late, left, &mounts, absent);
    }
    absent
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
        "not all is done that the boot skipped for lack of ZFS; {} failed: {}; {started}. When that \
         is mended: {AGAIN}",
        late.failures.len(),
        late.failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    );
    if pools_absent { Exit::PoolsAbsent } else { Exit::Other }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_import_may_take_as_long_as_is_configured_and_the_unit_waits_longer() {
        let mut settings = Settings::default();
        settings.pools.import_timeout = Duration::from_secs(60);
        assert_eq!(import_limit(&settings), IMPORT_LEAST);
        settings.pools.import_timeout = Duration::from_secs(3600);
        assert_eq!(import_limit(&settings), Duration::from_secs(3660));
        let unit = include_str!("../../units/zfs-load-late.service");
        let minutes = unit.lines().find_map(|line| line.strip_prefix("TimeoutStartSec="));
        let minutes: u64 = minutes.unwrap().strip_suffix("min").unwrap().parse().unwrap();
        assert!(
            import_limit(&settings) + REST + Duration::from_secs(60)
                < Duration::from_secs(minutes * 60)
        );
    }
}
