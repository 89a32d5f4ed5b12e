//! What comes after what, by the lines of the unit files.

use std::collections::{BTreeMap, BTreeSet};

use super::{entries, machine, root_unit};

const MODPROBE: &str = "zfs-load-module.service";

/// The values of all lines `key=` of a unit.
fn values<'a>(text: &'a str, key: &str) -> impl Iterator<Item = &'a str> {
    let lines = text.lines().filter_map(move |line| line.strip_prefix(key)?.strip_prefix('='));
    lines.flat_map(str::split_whitespace)
}

/// All of `units` that is ordered after `first`, at whatever distance. A unit that is not there orders
/// nothing.
fn after(first: &str, units: &BTreeMap<String, String>) -> BTreeSet<String> {
    let mut next: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (unit, text) in units {
        next.entry(unit).or_default().extend(values(text, "Before"));
        for earlier in values(text, "After") {
            next.entry(earlier).or_default().push(unit);
        }
    }
    let mut found = BTreeSet::new();
    let mut waiting = vec![first];
    while let Some(unit) = waiting.pop() {
        if units.contains_key(unit) && found.insert(unit.to_owned()) {
            waiting.extend(next.get(unit).into_iter().flatten());
        }
    }
    found
}

#[test]
fn the_modules_are_loaded_before_every_unit_that_is_skipped_without_them() {
    let dir = machine();
    let root = dir.path().join("root");
    let names = entries(&root.join("usr/lib/systemd/system")).into_iter();
    let of_zfs = names.filter(|name| name.starts_with("zfs") && !name.contains('@'));
    let mut units: BTreeMap<String, String> =
        of_zfs.map(|name| (name.clone(), root_unit(&root, &name))).collect();
    assert!(after("zfs-load.service", &units).contains(MODPROBE));
    // Debian's own: elsewhere nothing stands between.
    units.remove(MODPROBE);
    let skipped = |text: &str| text.contains("\nConditionPathIsDirectory=/sys/module/zfs\n");
    let skipped: Vec<_> = units.iter().filter(|(_, text)| skipped(text)).collect();
    assert!(skipped.len() > 4, "{skipped:?}");
    let after_load = after("zfs-load.service", &units);
    let early = skipped.iter().map(|(name, _)| *name).filter(|name| !after_load.contains(*name));
    assert_eq!(early.collect::<Vec<_>>(), Vec::<&String>::new());
    // Without one of its lines it is not.
    let mut broken = units.clone();
    let text = &units["zfs-load.service"];
    let without: String =
        text.split_inclusive('\n').filter(|l| !l.contains("import-scan")).collect();
    broken.insert("zfs-load.service".to_owned(), without);
    assert!(!after("zfs-load.service", &broken).contains("zfs-import-cache.service"));
}
