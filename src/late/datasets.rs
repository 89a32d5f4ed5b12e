//! What `zfs mount -a` and the mount units of the boot would mount, and which of these datasets
//! would hide something that was written before.
//!
//! Source: zfs-list(8), zfs-mount(8), zfsprops(7), and what zfs(8) of OpenZFS 2.3 leaves out of
//! `mount -a`: `share_mount_one()` in cmd/zfs/zfs_main.c.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::content::{Content, Ways};
use super::units::MountUnit;
use crate::host::mountinfo::Mount;

/// The columns that [`parse`] reads: arguments of `zfs list -H -t filesystem -o`.
pub(super) const COLUMNS: &str = "name,mountpoint,canmount,mounted,keystatus,zoned,sharenfs,\
                                  sharesmb,receive_resume_token,redact_snaps";

/// A file system that is not mounted, with a place for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Dataset {
    pub(super) name: String,
    pub(super) mountpoint: PathBuf,
    /// `zfs mount -a` would mount it now, or once its key is loaded.
    pub(super) due: bool,
    /// Its key is not loaded.
    pub(super) locked: bool,
    /// `zfs share -a` would share it, and mount it for that.
    pub(super) shared: bool,
    /// It has received a part, and more is to come: perhaps it cannot be mounted.
    pub(super) partial: bool,
    /// The unit that mounts it there, if there is one.
    pub(super) unit: Option<MountUnit>,
}

impl Dataset {
    /// The boot would have mounted it.
    fn counts(&self) -> bool {
        self.due || self.is_wanted()
    }

    /// Its mount unit is part of the boot.
    pub(super) fn is_wanted(&self) -> bool {
        self.unit.as_ref().is_some_and(|unit| unit.wanted)
    }

    /// `zfs mount -a` mounts it, and no mount unit does.
    pub(super) fn is_left_to_zfs(&self) -> bool {
        self.due && !self.is_wanted()
    }
}

/// A line of the list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Line {
    name: String,
    /// None: "legacy", "none", or "-" where the property does not apply.
    mountpoint: Option<PathBuf>,
    due: bool,
    mounted: bool,
    locked: bool,
    shared: bool,
    partial: bool,
}

/// The output of `zfs list -H -o` [`COLUMNS`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) lines: Vec<Line>,
    /// The other lines: complaints of the library.
    pub(super) complaints: Vec<String>,
}

/// Reads the output of `zfs list -H -o` [`COLUMNS`]. Complaints come between the lines.
///
/// # Errors
/// A line that has columns, but not these.
pub(super) fn parse(text: &str) -> Result<Listed> {
    let mut listed = Listed::default();
    for line in text.lines() {
        let columns: Vec<&str> = line.split('\t').collect();
        let [name, place, canmount, mounted, key, zoned, nfs, smb, token, redacted] = columns[..]
        else {
            if columns.len() > 1 {
                bail!("zfs list: not the columns {COLUMNS}: {line:?}");
            }
            listed.complaints.extend((!line.trim().is_empty()).then(|| line.trim().to_owned()));
            continue;
        };
        listed.lines.push(Line {
            name: name.to_owned(),
            mountpoint: place.starts_with('/').then(|| PathBuf::from(place)),
            due: canmount == "on" && zoned != "on" && redacted == "-",
            mounted: mounted == "yes",
            locked: key == "unavailable",
            shared: [nfs, smb].iter().any(|share| !matches!(*share, "off" | "-")),
            // A whole dataset has a token, too, while it receives the next snapshot.
            partial: token != "-",
        });
    }
    Ok(listed)
}

/// The file systems that have a mount point and are not mounted there: those of `lines`, and those
/// of `units` whose dataset is in `lines`. Without `all`, nobody runs `zfs mount -a`, and those of
/// `lines` are not due.
pub(super) fn missing(
    lines: &[Line],
    units: &[MountUnit],
    mounts: &[Mount],
    all: bool,
) -> Vec<Dataset> {
    let mut datasets = Vec::new();
    for line in lines {
        let of_it = |unit: &&MountUnit| unit.what == line.name;
        let dataset = |place: &Path, due: bool, unit: Option<&MountUnit>| Dataset {
            name: line.name.clone(),
            mountpoint: place.to_owned(),
            due,
            locked: line.locked,
            shared: line.shared,
            partial: line.partial,
            unit: unit.cloned(),
        };
        let own = line.mountpoint.as_deref();
        if let Some(place) = own.filter(|_| !line.mounted) {
            let unit = units.iter().filter(of_it).find(|unit| unit.place == place);
            datasets.push(dataset(place, line.due && all, unit));
        }
        for unit in units.iter().filter(of_it).filter(|unit| own != Some(&unit.place)) {
            // systemd may not have noticed the mount yet.
            if !mounts.iter().any(|m| m.place == unit.place && m.source == line.name) {
                datasets.push(dataset(&unit.place, false, Some(unit)));
            }
        }
    }
    // Parents before what lies in them: paths compare component by component.
    datasets.sort_by(|a, b| (&a.mountpoint, &a.name).cmp(&(&b.mountpoint, &b.name)));
    datasets
}

/// Why a dataset is not mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// There are files in the directory.
    NotEmpty(Content),
    /// It is no directory, or could not be read.
    Unreadable(String),
    /// Something else is mounted there, or below.
    Covered(PathBuf),
    /// Its mount point is below that of this dataset, which is not mounted.
    Below(String),
}

/// A dataset that is not mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) dataset: Dataset,
    pub(super) why: Why,
}

/// What is to be mounted, in this order, and what is not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) mount: Vec<Dataset>,
    /// These would be mounted, but their key is not loaded.
    pub(super) locked: Vec<Dataset>,
    pub(super) refused: Vec<Refused>,
    /// Nobody has asked for these yet, and they must not be mounted either.
    pub(super) avoided: Vec<Refused>,
    /// Empty directories that will be hidden.
    pub(super) hidden: Vec<(PathBuf, Content)>,
}

/// Decides for the `datasets` of [`missing`]. `mounts` are the present mounts; `look` says what a
/// directory has in it.
pub(super) fn decide(
    datasets: &[Dataset],
    mounts: &[Mount],
    mut look: impl FnMut(&Path, &Ways) -> std::io::Result<Content>,
) -> Decision {
    let points: BTreeSet<&Path> = datasets.iter().map(|d| d.mountpoint.as_path()).collect();
    let ways = Ways::new(points);
    let mut decision = Decision::default();
    for dataset in datasets.iter().filter(|d| d.due || d.unit.is_some()) {
        let above = decision.refused.iter().find(|r| is_below(&dataset.mountpoint, r));
        let why = match above.map(|r| Why::Below(r.dataset.name.clone())) {
            Some(below) => Err(below),
            None => in_the_way(&dataset.mountpoint, mounts, &ways, &mut look),
        };
        let dataset = dataset.clone();
        match why {
            Err(why) if dataset.counts() => decision.refused.push(Refused { dataset, why }),
            Err(why) => decision.avoided.push(Refused { dataset, why }),
            Ok(_) if !dataset.counts() => {}
            Ok(_) if dataset.locked => decision.locked.push(dataset),
            Ok(content) => {
                if content.directories > 0 {
                    decision.hidden.push((dataset.mountpoint.clone(), content));
                }
                decision.mount.push(dataset);
            }
        }
    }
    decision
}

/// Strictly below: two datasets at one mount point have the same thing in their way.
fn is_below(mountpoint: &Path, refused: &Refused) -> bool {
    let above = &refused.dataset.mountpoint;
    mountpoint != above && mountpoint.starts_with(above)
}

/// What is there and may be hidden; the error says why nothing may be mounted.
fn in_the_way(
    mountpoint: &Path,
    mounts: &[Mount],
    ways: &Ways,
    look: &mut impl FnMut(&Path, &Ways) -> std::io::Result<Content>,
) -> Result<Content, Why> {
    let is_below = |m: &&Mount| m.place.starts_with(mountpoint);
    if let Some(mount) = mounts.iter().filter(|m| !m.trap).find(is_below) {
        return Err(Why::Covered(mount.place.clone()));
    }
    // Looking into an automount point would trigger it.
    if mounts.iter().any(|m| m.trap && m.place == mountpoint) {
        return Ok(Content::default());
    }
    match look(mountpoint, ways) {
        Ok(content) if content.is_nothing() => Ok(content),
        Ok(content) => Err(Why::NotEmpty(content)),
        Err(e) => Err(Why::Unreadable(e.to_string())),
    }
}

#[cfg(test)]
#[path = "datasets_tests.rs"]
mod tests;
