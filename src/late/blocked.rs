//! Units that must not be started: they would mount over something, or need what is not mounted.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::systemd::manager::{Error, Unit};

/// At most this many requirements of a unit are followed. An operator's unit has a handful.
const MOST: usize = 500;

/// A unit that is kept off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Blocked {
    /// Its name; it need not exist.
    pub(super) unit: String,
    /// Where it would mount.
    pub(super) place: Option<PathBuf>,
    /// Why a unit that needs it is not started.
    pub(super) why: String,
    /// systemd refuses to start it: a unit that only wants it may be started.
    pub(super) guarded: bool,
    /// It may be there later: somebody may still type a passphrase.
    pub(super) later: bool,
}

impl Blocked {
    fn stops(&self, unit: &Unit) -> bool {
        let below =
            |place: &PathBuf| unit.mounts_for.iter().any(|path| Path::new(path).starts_with(place));
        unit.name == self.unit
            || unit.requires.contains(&self.unit)
            || self.place.as_ref().is_some_and(below)
            || (!self.guarded && unit.wants.contains(&self.unit))
    }
}

/// The first of `blocked` that `unit` needs, directly or through what it requires. A requirement that
/// is active is not started again, and is not followed.
pub(super) fn needed<'o>(
    unit: &Unit,
    blocked: &'o [Blocked],
    mut ask: impl FnMut(&str) -> Result<Unit, Error>,
) -> Option<&'o Blocked> {
    if blocked.is_empty() {
        return None;
    }
    let mut seen = BTreeSet::from([unit.name.clone()]);
    let mut next = vec![unit.clone()];
    while let Some(unit) = next.pop() {
        if let Some(blocked) = blocked.iter().find(|blocked| blocked.stops(&unit)) {
            return Some(blocked);
        }
        for name in &unit.requires {
            if seen.len() < MOST && seen.insert(name.clone()) {
                // A unit that systemd cannot be asked about cannot be started either. The start
                // reports it.
                next.extend(ask(name).ok().filter(|unit| unit.active != "active"));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(name: &str, active: &str, requires: &[&str], mounts_for: &[&str]) -> Unit {
        let owned = |list: &[&str]| -> Vec<String> { list.iter().map(|&s| s.into()).collect() };
        Unit {
            name: name.into(),
            active: active.into(),
            requires: owned(requires),
            wants: owned(requires),
            mounts_for: owned(mounts_for),
            ..Unit::default()
        }
    }

    fn blocked(unit: &str, place: &str) -> Blocked {
        Blocked {
            unit: unit.into(),
            place: Some(place.into()),
            why: "tank/web is not mounted".into(),
            guarded: true,
            later: false,
        }
    }

    #[test]
    fn what_needs_a_mount_that_is_refused_is_found_over_all_that_it_requires() {
        let world = [
            unit("sysinit.target", "active", &["srv-web.mount"], &[]),
            unit("plain.service", "inactive", &["sysinit.target"], &["/srv"]),
            unit("direct.service", "active", &["srv-web.mount", "sysinit.target"], &[]),
            // Without a mount unit: only the path says so.
            unit("path.service", "inactive", &["sysinit.target"], &["/var/x", "/srv/web/logs"]),
            unit("beside.service", "inactive", &[], &["/srv/website"]),
            unit("over.service", "inactive", &["path.service"], &[]),
            unit("round.service", "inactive", &["about.service"], &[]),
            unit("about.service", "inactive", &["round.service", "over.service"], &[]),
            unit("upon.service", "inactive", &["direct.service"], &[]),
            unit("srv-web.mount", "inactive", &[], &[]),
        ];
        let ask = |name: &str| Ok(world.iter().find(|u| u.name == name).cloned().unwrap());
        let all = [blocked("srv-web.mount", "/srv/web")];
        for (name, want) in [
            ("plain.service", false),
            ("direct.service", true),
            ("path.service", true),
            ("beside.service", false),
            ("over.service", true),
            ("round.service", true),
            ("srv-web.mount", true),
            // What it requires runs: it is not started with it.
            ("upon.service", false),
        ] {
            assert_eq!(needed(&ask(name).unwrap(), &all, ask).is_some(), want, "{name}");
            assert_eq!(needed(&ask(name).unwrap(), &[], ask), None, "{name}");
        }
    }

    #[test]
    fn who_only_wants_it_is_stopped_only_where_systemd_does_not_refuse_it() {
        let wants =
            Unit { wants: vec!["x.service".into()], ..unit("y.target", "inactive", &[], &[]) };
        let mut all = [Blocked { place: None, ..blocked("x.service", "/") }];
        let ask = |_: &str| Err(Error::Closed);
        assert_eq!(needed(&wants, &all, ask), None);
        all[0].guarded = false;
        assert!(needed(&wants, &all, ask).is_some());
    }
}
