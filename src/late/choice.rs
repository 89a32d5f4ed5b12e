//! Which units the boot would have started, and in which order they are started late.

use std::collections::BTreeSet;

use crate::systemd::manager::{Error, Unit};

/// Why this program does not start `unit`; `None`: it does. `wanted`: the answer of [`is_wanted`].
pub(super) fn left_alone(unit: &Unit, wanted: bool) -> Option<&'static str> {
    match (unit.load.as_str(), unit.file.as_str()) {
        ("not-found", _) => Some("not installed"),
        ("masked", _) | (_, "masked" | "masked-runtime") => Some("masked"),
        // Also a disabled unit, if something else wants it.
        _ if unit.is_up() || wanted => None,
        (_, "disabled") => Some("disabled"),
        _ => Some("not wanted in this boot"),
    }
}

/// Whether a running unit wants `unit`, directly or through others: then the boot had it in its
/// transaction. Links of generators count like those of `systemctl enable`.
///
/// # Errors
/// Those of `ask`.
pub(super) fn is_wanted(
    unit: &Unit,
    mut ask: impl FnMut(&str) -> Result<Unit, Error>,
) -> Result<bool, Error> {
    let mut seen = BTreeSet::from([unit.name.clone()]);
    let mut next = unit.wanted_by.clone();
    while let Some(name) = next.pop() {
        if !seen.insert(name.clone()) {
            continue;
        }
        let by = ask(&name)?;
        if by.is_up() {
            return Ok(true);
        }
        next.extend(by.wanted_by);
    }
    Ok(false)
}

/// Sorts `units`: each comes after those that it has in its After=, where that is possible.
pub(super) fn in_order(mut units: Vec<Unit>) -> Vec<Unit> {
    let mut ordered = Vec::new();
    units.sort_by(|a, b| a.name.cmp(&b.name));
    while !units.is_empty() {
        let left: BTreeSet<String> = units.iter().map(|u| u.name.clone()).collect();
        let free = |u: &Unit| u.after.iter().all(|a| *a == u.name || !left.contains(a));
        // If there is a cycle, systemd has broken it; here it only costs the order.
        let at = units.iter().position(free).unwrap_or(0);
        ordered.push(units.remove(at));
    }
    ordered
}

/// The units that have to be started before `unit`: it pulls them in, and is ordered after them.
pub(super) fn before(unit: &Unit) -> Vec<String> {
    unit.wants.iter().filter(|name| unit.after.contains(name)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(name: &str, active: &str, wanted_by: &[&str]) -> Unit {
        Unit {
            name: name.to_owned(),
            load: "loaded".to_owned(),
            active: active.to_owned(),
            wanted_by: wanted_by.iter().map(|&s| s.to_owned()).collect(),
            ..Unit::default()
        }
    }

    #[test]
    fn a_unit_that_the_boot_would_not_have_started_is_left_alone() {
        for (load, file, active, wanted, want) in [
            ("loaded", "enabled", "active", true, None),
            ("loaded", "enabled", "inactive", true, None),
            ("loaded", "enabled", "failed", true, None),
            // Enabled by a target that is not part of the boot.
            ("loaded", "enabled", "inactive", false, Some("not wanted in this boot")),
            ("loaded", "static", "inactive", true, None),
            ("loaded", "static", "inactive", false, Some("not wanted in this boot")),
            ("loaded", "disabled", "active", false, None),
            // Linked by a generator.
            ("loaded", "disabled", "inactive", true, None),
            ("loaded", "disabled", "inactive", false, Some("disabled")),
            ("masked", "masked", "inactive", true, Some("masked")),
            ("loaded", "masked", "active", true, Some("masked")),
            ("not-found", "", "inactive", true, Some("not installed")),
        ] {
            let unit = Unit { load: load.into(), file: file.into(), ..unit("x", active, &[]) };
            assert_eq!(left_alone(&unit, wanted), want, "{load} {file} {active} {wanted}");
        }
    }

    #[test]
    fn what_an_active_target_wants_over_any_number_of_steps_is_part_of_the_boot() {
        let world = [
            unit("multi-user.target", "active", &["graphical.target"]),
            unit("zfs.target", "inactive", &["multi-user.target"]),
            unit("zfs-import.target", "inactive", &["zfs.target", "a.service"]),
            unit("zfs-import-cache.service", "inactive", &["zfs-import.target"]),
            unit("graphical.target", "inactive", &[]),
            // Two that want each other.
            unit("a.service", "inactive", &["b.service"]),
            unit("b.service", "failed", &["a.service"]),
            unit("rescue.target", "inactive", &[]),
            unit("other.service", "inactive", &["rescue.target"]),
        ];
        let ask = |name: &str| Ok(world.iter().find(|u| u.name == name).unwrap().clone());
        for (name, want) in [
            ("zfs-import-cache.service", true),
            ("zfs.target", true),
            ("a.service", false),
            ("other.service", false),
            ("graphical.target", false),
        ] {
            assert_eq!(is_wanted(&ask(name).unwrap(), ask), Ok(want), "{name}");
        }
        let lost = is_wanted(&world[1], |_| Err(Error::Closed));
        assert_eq!(lost, Err(Error::Closed));
    }

    #[test]
    fn units_are_started_after_what_they_are_ordered_after() {
        let after = |name: &str, after: &[&str]| Unit {
            after: after.iter().map(|&s| s.to_owned()).collect(),
            ..unit(name, "inactive", &[])
        };
        let units = vec![
            after("a", &["c", "elsewhere"]),
            after("b", &[]),
            after("c", &["b", "d"]),
            after("d", &[]),
        ];
        let names: Vec<String> = in_order(units).into_iter().map(|u| u.name).collect();
        assert_eq!(names, ["b", "d", "c", "a"]);
        let cycle = vec![after("x", &["y"]), after("y", &["x"])];
        assert_eq!(in_order(cycle).len(), 2, "none is lost in a cycle");
    }
}
