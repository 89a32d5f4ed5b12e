//! Drop-ins for the mount units that systemd-fstab-generator(8) makes of file systems of ZFS. A
//! missing module, which a late build may bring, must not cost the boot.

use std::path::Path;

use super::dataset::mount_unit;
use super::dataset_text as text;
use super::output::Entry;
use crate::config::is_pool_name;
use crate::mountpoints::Mounts;
use crate::mountpoints::budget::Budget;
use crate::mountpoints::fstab;
use crate::mountpoints::problems::Problems;

/// Whoever writes fstab need not order its file systems after the import.
const AFTER: &str =
    "# What is looked at below is there after the import.\nAfter=zfs-import.target\n";

/// The drop-ins for the entries of ZFS in `fstab`. `vital`: paths that systemd itself needs. Reports
/// where the budget was used up.
pub(super) fn drop_ins(
    fstab: &[fstab::Entry],
    mounts: &Mounts<'_>,
    vital: &[String],
    budget: &Budget,
    problems: &mut Problems,
) -> Vec<Entry> {
    let mut drop_ins = Vec::new();
    for entry in fstab.iter().filter(|entry| entry.zfs) {
        if budget.is_over() {
            problems.add_always(format_args!(
                "/etc/fstab: from {} on, file systems of ZFS have no drop-ins: writing them has \
                 taken too long",
                entry.point
            ));
            break;
        }
        drop_ins.extend(drop_in(entry, mounts, vital));
    }
    drop_ins
}

fn drop_in(entry: &fstab::Entry, mounts: &Mounts<'_>, vital: &[String]) -> Option<Entry> {
    let point = mounts.canonical(Path::new(&entry.point));
    let point = point.to_str().filter(|point| *point != "/")?;
    let condition = if entry.required {
        // As for a dataset with org.openzfs.systemd:nofail=off.
        text::MODULE.to_owned()
    } else if vital.iter().any(|path| Path::new(path).starts_with(point)) {
        text::pool_condition(entry.what.split('/').next().filter(|pool| is_pool_name(pool))?)
    } else {
        return None;
    };
    let text = text::not_to_fail("/etc/fstab", AFTER, &condition);
    Some(Entry::drop_in(&mount_unit(point), text))
}
