//! Keeps others from mounting datasets. The block begins before the import, and ends when this
//! program has looked at what would be covered. Refused datasets stay blocked until somebody has
//! decided.
//!
//! A unit that is started while the machine runs pulls in what local-fs.target wants, through
//! sysinit.target: mount units, too. So each mount unit gets a drop-in with an assertion on the
//! file that zfs-mount.service has a condition on. For units that need the mount, a condition that
//! is not met would count as success; an assertion that is not met fails them. systemd checks both
//! when it starts a unit: removing the file is enough.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::blocked::Blocked;
use super::datasets::Refused;
use super::refused::why;
use super::run::Late;
use super::units;
use crate::host::Host;
use crate::store::{Layout, make_dirs, write_atomic};
use crate::systemd::manager::Manager;
use crate::systemd::name::escape_path;

pub(super) const MOUNT: &str = "zfs-mount.service";

/// Below every directory that a drop-in of the operator's may be in, but for generators'.
const UNITS: &str = "/run/systemd/system";
/// Not the name of the generator's drop-in: this one would hide it.
const DROP_IN: &str = "60-zfs-prefix-mounts-refused.conf";
/// If no decision is known, the file says this in the place of names.
const NOT_LOOKED: &str = "-\t-\tnobody has looked yet whether anything is in the way: \
                          zfs-prefix load --import is at work, or was stopped\n";

/// What the drop-in of a mount unit says.
fn text() -> String {
    format!(
        "# Written by zfs-prefix load --import, see AFTER A LATE BUILD in zfs-prefix(8).\n\
         [Unit]\n\
         # Something was written where this is to be mounted, and would be hidden. Once it is decided:\n\
         # rm {mark}\n\
         AssertPathExists=!{mark}\n\
         # After a systemctl soft-reboot that one removes the file.\n\
         After=zfs-load.service\n",
        mark = Layout::MOUNTS_REFUSED
    )
}

/// Whether the mark keeps a unit from starting. `absent_paths`: those that its conditions and
/// assertions want absent.
pub(super) fn guarded(absent_paths: &[String]) -> bool {
    absent_paths.iter().any(|path| path == Layout::MOUNTS_REFUSED)
}

/// Blocks every mount of a dataset, whoever starts it.
pub(super) fn hold(late: &mut Late<'_>) {
    let held = units::idle(late).map_err(anyhow::Error::from).and_then(|units| {
        let names: BTreeSet<String> = units.iter().map(|unit| unit.name.clone()).collect();
        let unknown = units.iter().any(|unit| !guarded(&unit.absent_paths));
        put_drop_ins(late, &names, unknown)
    });
    if let Err(e) = held.and_then(|()| put_marks(late.host, NOT_LOOKED, true)) {
        late.failed(
            "mount units",
            &format!("cannot be blocked while the pools are imported: {e:#}"),
        );
    }
}

/// Lifts the block. The drop-ins stay for the next late import, or until the machine goes down:
/// without the file they have no effect, and their removal is not worth a reload.
pub(super) fn release(host: &Host) -> Result<()> {
    Layout::new(&host.root).forget_refused()
}

/// Blocks only what is refused. From here on, nothing is started that needs `refused` or `avoided`
/// datasets. If it is not known what is refused (`None`), everything stays blocked. Returns whether
/// zfs-mount.service is held back.
pub(super) fn keep(late: &mut Late<'_>, refused: Option<&[Refused]>, avoided: &[Refused]) -> bool {
    let mut held_back = false;
    late.blocked.clear();
    if let Some([]) = refused {
        if let Err(e) = release(late.host) {
            late.failed(MOUNT, &format!("is held back, although nothing is in the way: {e:#}"));
        }
    } else {
        if let Err(e) = narrow(late, refused) {
            late.failed(
                "mount units",
                &format!("those of refused datasets cannot be blocked: {e:#}"),
            );
        }
        held_back = has_condition(late);
        if !held_back {
            late.blocked.push(unheld_mount());
        }
    }
    for (refused, held) in [(refused.unwrap_or_default(), true), (avoided, false)] {
        for refused in refused {
            let blocked = blocked(late, refused, held);
            late.blocked.push(blocked);
        }
    }
    held_back
}

/// Narrows the block from all mount units to those of refused datasets. Their names go into the
/// file.
fn narrow(late: &mut Late<'_>, refused: Option<&[Refused]>) -> Result<()> {
    let Some(refused) = refused else { return put_marks(late.host, NOT_LOOKED, true) };
    let names: BTreeSet<String> = refused.iter().map(unit_of).collect();
    put_drop_ins(late, &names, false)?;
    let line = |r: &Refused| {
        format!("{}\t{}\t{}\n", r.dataset.name, r.dataset.mountpoint.display(), why(r))
    };
    let text: String = refused.iter().map(line).collect();
    // `zfs share -a` mounts what it shares.
    put_marks(late.host, &text, refused.iter().any(|r| r.dataset.shared))
}

/// The name of its mount unit, even if there is none yet: a generator may make one from a list of
/// zed's.
fn unit_of(refused: &Refused) -> String {
    match &refused.dataset.unit {
        Some(unit) => unit.name.clone(),
        None => format!("{}.mount", escape_path(&refused.dataset.mountpoint.to_string_lossy())),
    }
}

fn blocked(late: &mut Late<'_>, refused: &Refused, held: bool) -> Blocked {
    let unit = unit_of(refused);
    // An avoided dataset is mounted only for a unit that requires it.
    let guarded = !held
        || late
            .ask(&unit)
            .is_ok_and(|unit| unit.load == "not-found" || guarded(&unit.absent_paths));
    Blocked {
        unit,
        place: Some(refused.dataset.mountpoint.clone()),
        why: format!("{} is not mounted ({})", refused.dataset.name, why(refused)),
        guarded,
        later: false,
    }
}

/// Whether systemd skips zfs-mount.service now, whoever starts it: zfs.target and zfs-share.service
/// want it.
fn has_condition(late: &mut Late<'_>) -> bool {
    let there = Layout::new(&late.host.root).mounts_refused().exists();
    there && late.ask(MOUNT).is_ok_and(|unit| guarded(&unit.absent_paths))
}

/// zfs-mount.service without our drop-in, or with an old one: it would mount everything.
fn unheld_mount() -> Blocked {
    Blocked {
        unit: MOUNT.to_owned(),
        place: None,
        why: format!("it would start {MOUNT}"),
        guarded: false,
        later: false,
    }
}

fn put_marks(host: &Host, text: &str, shares: bool) -> Result<()> {
    let layout = Layout::new(&host.root);
    make_dirs(&layout.run())?;
    write_atomic(&layout.mounts_refused(), text.as_bytes())?;
    if shares {
        write_atomic(&layout.shares_refused(), text.as_bytes())
    } else {
        let mark = layout.shares_refused();
        gone(fs::remove_file(&mark)).with_context(|| mark.display().to_string())
    }
}

/// Gives the units `names` the drop-in, and takes it from all others. `anew`: systemd does not know
/// some of the drop-ins that are there.
fn put_drop_ins(late: &mut Late<'_>, names: &BTreeSet<String>, anew: bool) -> Result<()> {
    let there = drop_ins(late.host);
    for unit in there.difference(names) {
        remove_drop_in(late.host, unit)?;
    }
    for unit in names.difference(&there) {
        let path = drop_in(late.host, unit);
        make_dirs(path.parent().context("a drop-in without a directory")?)?;
        write_atomic(&path, text().as_bytes())?;
    }
    if there != *names || (anew && !names.is_empty()) {
        late.call(Manager::reload).context("systemctl daemon-reload")?;
    }
    Ok(())
}

fn drop_in(host: &Host, unit: &str) -> PathBuf {
    host.path(UNITS).join(format!("{unit}.d")).join(DROP_IN)
}

/// The units that have the drop-in.
fn drop_ins(host: &Host) -> BTreeSet<String> {
    let directories = fs::read_dir(host.path(UNITS)).into_iter().flatten().flatten();
    let names = directories.filter_map(|entry| entry.file_name().into_string().ok());
    let units = names.filter_map(|name| Some(name.strip_suffix(".d")?.to_owned()));
    units.filter(|unit| drop_in(host, unit).exists()).collect()
}

fn remove_drop_in(host: &Host, unit: &str) -> Result<()> {
    let path = drop_in(host, unit);
    gone(fs::remove_file(&path)).with_context(|| path.display().to_string())?;
    if let Some(directory) = path.parent() {
        // It may have drop-ins of others in it.
        let _ = fs::remove_dir(directory);
    }
    Ok(())
}

/// A file that does not exist counts as removed.
fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_drop_ins_are_taken_away_and_those_of_others_stay() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::below(root.path(), "6.1.0");
        let theirs = host.path(UNITS).join("b.mount.d/10-theirs.conf");
        for unit in ["a.mount", "b.mount"] {
            let path = drop_in(&host, unit);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text()).unwrap();
        }
        fs::write(&theirs, "").unwrap();
        put_marks(&host, NOT_LOOKED, true).unwrap();
        let layout = Layout::new(&host.root);
        assert!(layout.mounts_refused().exists() && layout.shares_refused().exists());
        put_marks(&host, "tank\t/tank\t1 file in it\n", false).unwrap();
        assert!(layout.mounts_refused().exists() && !layout.shares_refused().exists());
        assert_eq!(drop_ins(&host), ["a.mount", "b.mount"].map(str::to_owned).into());
        release(&host).unwrap();
        release(&host).unwrap();
        assert!(!layout.mounts_refused().exists());
        for unit in drop_ins(&host) {
            remove_drop_in(&host, &unit).unwrap();
        }
        assert_eq!(drop_ins(&host), BTreeSet::new());
        assert!(theirs.exists() && !host.path(UNITS).join("a.mount.d").exists());
    }

    #[test]
    fn the_drop_in_asserts_that_the_file_is_absent_which_is_all_there_is_to_remove() {
        let text = text();
        assert!(text.contains("\nAssertPathExists=!/run/zfs-prefix/mounts-refused\n"), "{text}");
        assert!(text.contains("\n# rm /run/zfs-prefix/mounts-refused\n"), "{text}");
    }
}
