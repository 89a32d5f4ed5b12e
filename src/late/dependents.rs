//! Units that wait for the pools, and units that started without them.

use std::time::Duration;

use super::mounts::{self, Mounts};
use super::run::{Late, Step};
use crate::config::Boot;
use crate::systemd::manager::Unit;

/// How long one unit may take.
const LIMIT: Duration = Duration::from_secs(3 * 60);

/// A unit of boot.require-pools-for or boot.restart-after-import.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Dependent {
    unit: String,
    /// It requires its pools; otherwise it is restarted.
    requires: bool,
}

/// All that are configured, in the order in which they are started.
pub(super) fn of(boot: &Boot) -> Vec<Dependent> {
    let dependent =
        |requires: bool| move |unit: &String| Dependent { unit: unit.clone(), requires };
    let require = boot.require_pools_for.iter().map(dependent(true));
    require.chain(boot.restart_after_import.iter().map(dependent(false))).collect()
}

/// Starts or restarts the units whose needs are met. Returns those that need something that waits
/// for a key. `absent`: expected pools are absent.
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
        // A unit that requires its pools is not started with only some of them.
        let without = missing.as_deref().filter(|_| absent || dependent.requires);
        if !start_one(late, &dependent, without) {
            later.push(dependent);
        }
    }
    later
}

/// Starts or restarts one unit. False: it has to wait for a key.
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
    if late.needs_blocked(&state).is_some_and(|blocked| blocked.later) {
        return false;
    }
    late.job(&state, LIMIT, restart);
    true
}

/// The unit, if it exists and this program is to start it. A unit that does not exist is the
/// operator's mistake.
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
