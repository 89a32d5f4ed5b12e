//! Those who wait for the pools, and those who began without.

use std::time::Duration;

use super::mounts::{self, Mounts};
use super::run::{Late, Step};
use crate::config::Boot;
use crate::systemd::manager::Unit;

/// How long one may take.
const LIMIT: Duration = Duration::from_secs(3 * 60);

/// A unit of boot.require-pools-for or boot.restart-after-import.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Dependent {
    unit: String,
    /// It has asked for its pools; otherwise it is restarted.
    requires: bool,
}

/// All that are configured, in the order in which they are started.
pub(super) fn of(boot: &Boot) -> Vec<Dependent> {
    let dependent =
        |requires: bool| move |unit: &String| Dependent { unit: unit.clone(), requires };
    let require = boot.require_pools_for.iter().map(dependent(true));
    require.chain(boot.restart_after_import.iter().map(dependent(false))).collect()
}

/// Starts and restarts them, where what they need is there. Those are returned that need what waits for
/// a key. `absent`: expected pools are.
pub(super) fn start(
    late: &mut Late<'_>,
    dependents: Vec<Dependent>,
    mounts: &Mounts,
    absent: bool,
) -> Vec<Dependent> {
    if dependents.is_empty() {
        return dependents;
    }
    let missing = if absent {
        Some("expected pools are absent".to_owned())
    } else {
        mounts::missing(late, mounts)
    };
    let mut later = Vec::new();
    for dependent in dependents {
        late.stage = if dependent.requires { "require" } else { "restart" };
        // Who asked for its pools does not get half of them.
        let without = missing.as_deref().filter(|_| absent || dependent.requires);
        if !start_one(late, &dependent, without) {
            later.push(dependent);
        }
    }
    later
}

/// Whether it has had its turn.
fn start_one(late: &mut Late<'_>, dependent: &Dependent, without: Option<&str>) -> bool {
    let unit = dependent.unit.as_str();
    let Some(state) = listed(late, dependent) else { return true };
    if dependent.requires && state.active == "active" {
        late.say(unit, "is active already");
        return true;
    }
    let restart = !dependent.requires && state.is_up();
    let done = if restart { "restarted" } else { "started" };
    if let Some(why) = without {
        late.failed(unit, &format!("not {done}: {why}"));
        return true;
    }
    if late.needs_off(&state).is_some_and(|off| off.later) {
        return false;
    }
    late.job(&state, LIMIT, restart);
    true
}

/// The unit, if it is there and for us to start. One that is not there is a mistake of the operator's.
fn listed(late: &mut Late<'_>, dependent: &Dependent) -> Option<Unit> {
    late.taken(&dependent.unit);
    if late.ask(&dependent.unit).is_ok_and(|unit| unit.load == "not-found") {
        let key =
            if dependent.requires { "boot.require-pools-for" } else { "boot.restart-after-import" };
        let why = format!("there is no such unit: correct {key} (systemctl list-unit-files)");
        let _: Step = late.failed(&dependent.unit, &why);
        return None;
    }
    late.look_at(&dependent.unit).ok().flatten()
}
