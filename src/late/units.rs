//! Mount units of datasets, whoever wrote them: fstab(5), zfs-mount-generator(8), or the generator
//! here.

use std::path::PathBuf;

use super::choice::is_wanted;
use super::run::Late;
use crate::systemd::manager::{Error, Manager, Unit};

/// How the names of units that load keys begin, as zfs-mount-generator(8) names them.
const KEY: &str = "zfs-load-key@";

/// A mount unit of a dataset that is not mounted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct MountUnit {
    pub(super) name: String,
    /// The dataset.
    pub(super) what: String,
    pub(super) place: PathBuf,
    /// A running unit wants it, directly or through others: it is part of the boot.
    pub(super) wanted: bool,
    /// The units that load its key and are not active.
    pub(super) keys: Vec<String>,
    /// The paths that have to be absent for it to start.
    pub(super) absent_paths: Vec<String>,
}

/// All mount units of datasets that are not active.
///
/// # Errors
/// systemd cannot be asked.
pub(super) fn idle(late: &mut Late<'_>) -> Result<Vec<MountUnit>, Error> {
    let mut units = Vec::new();
    for name in late.call(Manager::idle_mounts)? {
        let unit = match late.ask(&name) {
            // A file whose name is no unit name.
            Err(Error::Refused { .. }) => continue,
            other => other?,
        };
        if unit.kind == "zfs" && unit.active != "active" {
            units.push(of(late, &unit)?);
        }
    }
    Ok(units)
}

fn of(late: &mut Late<'_>, unit: &Unit) -> Result<MountUnit, Error> {
    let masked = unit.load != "loaded";
    let mut keys = Vec::new();
    for name in unit.wants.iter().filter(|name| name.starts_with(KEY)) {
        if late.ask(name)?.active != "active" {
            keys.push(name.clone());
        }
    }
    Ok(MountUnit {
        name: unit.name.clone(),
        what: unit.what.clone(),
        place: PathBuf::from(&unit.place),
        wanted: !masked && is_wanted(unit, |name| late.ask(name))?,
        keys,
        absent_paths: unit.absent_paths.clone(),
    })
}
