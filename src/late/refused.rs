//! What this program reports of a dataset that is not mounted.

use tracing::error;

use super::datasets::{Refused, Why};
use super::run::{Failed, Late};
use crate::log::id;
use crate::store::Layout;

/// In a few words.
pub(super) fn why(refused: &Refused) -> String {
    match &refused.why {
        Why::NotEmpty(content) => format!("{content} in it"),
        Why::Unreadable(e) => format!("cannot be looked into: {e}"),
        Why::Covered(mount) => format!("{} is mounted there", mount.display()),
        Why::Below(name) => format!("below {name}, which is not mounted"),
    }
}

/// What an operator reads at three in the morning.
fn message(refused: &Refused) -> String {
    let (name, at) = (&refused.dataset.name, refused.dataset.mountpoint.display());
    // A dataset in fstab has no mount point of its own.
    let unit = refused.dataset.unit.as_ref().filter(|_| !refused.dataset.due);
    let mount = match unit {
        Some(unit) => format!("rm {}; systemctl start '{}'", Layout::MOUNTS_REFUSED, unit.name),
        None => format!("zfs mount {name}"),
    };
    match &refused.why {
        Why::NotEmpty(content) => format!(
            "{name} is not mounted: {at} has {content} in it, written while the pool was not there. \
             A mount would hide what is in it. Look (ls -lA '{at}'), move away what is to be kept; \
             then: {mount}"
        ),
        Why::Unreadable(e) => {
            format!("{name} is not mounted: {at} cannot be looked into ({e}). Look; then: {mount}")
        }
        Why::Covered(place) => format!(
            "{name} is not mounted: {} is a mount point already, and would be hidden. Look \
             (findmnt '{}'); then: {mount}",
            place.display(),
            place.display()
        ),
        Why::Below(above) => format!(
            "{name} is not mounted: {at} is below the mount point of {above}, which is not mounted. \
             After that one: {mount}"
        ),
    }
}

/// Reports it, in the journal and in the last line.
pub(super) fn refuse(late: &mut Late<'_>, refused: &Refused) {
    error!(
        message_id = id::MOUNT_REFUSED,
        zfs_prefix_stage = late.stage,
        zfs_prefix_kernel = late.host.kernel_release.as_str(),
        zfs_prefix_dataset = refused.dataset.name.as_str(),
        "{}",
        message(refused)
    );
    let what = format!("{} not mounted", refused.dataset.name);
    late.failures.push(Failed { what, why: why(refused) });
}
