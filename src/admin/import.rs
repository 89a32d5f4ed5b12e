//! `zfs-prefix load --import`, the program of zfs-load-late.service: what follows a late build.

use std::io::ErrorKind;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tracing::info;

use crate::build::command::{Cancel, Run};
use crate::exit::Exit;
use crate::fail;
use crate::host::Host;
use crate::store::Layout;

const LOAD: &str = "zfs-load.service";
/// One after the other: zfs-mount.service is ordered after zfs-import.target only, which is active
/// since the boot, and not after the units that import. Starting an active target starts the units
/// it wants that are not active, and waits for those ordered before it: whatever is enabled.
const TARGETS: [&str; 2] = ["zfs-import.target", "zfs.target"];
/// In the boot it failed where pools are expected: no module.
const POOLS: &str = "zfs-pools.service";
/// How long all of it may take: less than TimeoutStartSec= of the unit, so that it is said what
/// was not done.
const LIMIT: Duration = Duration::from_secs(14 * 60);

/// Loads the published modules, then starts what the boot skipped because they were not there.
/// Where nothing was loaded, nothing more is started.
///
/// # Errors
/// The load, or the start of a target that is there and wanted, failed or took too long.
pub fn load_and_import(host: &Host) -> Result<u8> {
    let mark = Layout::new(&host.root).published();
    match std::fs::remove_file(&mark) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            return Err(e).with_context(|| format!("{}", mark.display()));
        }
        _ => {}
    }
    let cancel = Cancel::after(LIMIT);
    start(LOAD, &cancel)?;
    if !host.path("/sys/module/zfs").exists() {
        info!("{LOAD} loaded nothing (journalctl -eu {LOAD}): nothing is imported");
        return Ok(Exit::Done.code());
    }
    for target in TARGETS {
        match left_alone(target, &cancel)? {
            Some(why) => info!("{target} is {why}: not started"),
            None => start(target, &cancel)?,
        }
    }
    // It says itself what is the matter, and is the unit that is alerted on.
    if let Err(error) = start(POOLS, &cancel) {
        info!("{error:#}");
    }
    Ok(Exit::Done.code())
}

/// Why a target is not for us to start: the boot would not have started it either.
fn left_alone(target: &str, cancel: &Cancel) -> Result<Option<&'static str>> {
    let show = |property: &str| -> Result<String> {
        let out = systemctl(&["show", "--value", "-p", property, target]).output(cancel)?;
        Ok(out.trim().to_owned())
    };
    let (load, enabled) = (show("LoadState")?, show("UnitFileState")?);
    Ok(reason(&load, &enabled, &show("ActiveState")?))
}

/// The reason in the properties LoadState, UnitFileState and ActiveState (systemctl(1)).
fn reason(load: &str, enabled: &str, active: &str) -> Option<&'static str> {
    match (load, enabled, active) {
        ("not-found", ..) => Some("not installed"),
        ("masked", ..) | (_, "masked" | "masked-runtime", _) => Some("masked"),
        // Wanted by something else all the same.
        (.., "active" | "activating" | "reloading") => None,
        (_, "disabled", _) => Some("disabled"),
        _ => None,
    }
}

fn start(unit: &str, cancel: &Cancel) -> Result<()> {
    // It says nothing while it waits.
    match systemctl(&["start", unit]).idle(LIMIT).output(cancel) {
        Ok(_) => Ok(()),
        Err(_) if cancel.is_set() => fail!(
            Exit::Other,
            "{unit} was not done after {} minutes; it goes on: systemctl list-jobs",
            LIMIT.as_secs() / 60
        ),
        Err(error) => bail!("{error:#}; its journal: journalctl -eu {unit}"),
    }
}

fn systemctl(args: &[&str]) -> Run {
    Run::new("/usr/bin/systemctl").args(args)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_that_the_boot_would_not_have_started_is_left_alone() {
        for (load, enabled, active, want) in [
            ("loaded", "enabled", "active", None),
            ("loaded", "enabled", "inactive", None),
            ("loaded", "static", "inactive", None),
            ("loaded", "disabled", "active", None),
            ("loaded", "disabled", "inactive", Some("disabled")),
            ("masked", "masked", "inactive", Some("masked")),
            ("loaded", "masked", "active", Some("masked")),
            ("not-found", "", "inactive", Some("not installed")),
        ] {
            assert_eq!(reason(load, enabled, active), want, "{load} {enabled} {active}");
        }
    }
}
