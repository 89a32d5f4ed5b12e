//! Mounts the datasets: first by their mount units, as in a boot; then by zfs-mount.service, if
//! nothing is in the way. Otherwise it mounts them one by one, and leaves out those that would hide
//! files that somebody wrote.
//!
//! If somebody has to type a key, datasets that do not need it are mounted without waiting.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tracing::{info, warn};

use super::blocked::Blocked;
use super::choice::before;
use super::datasets::{self, Dataset, Decision};
use super::guard::{self, MOUNT};
use super::refused::refuse;
use super::run::{Late, Pending, Step};
use super::{content, units};
use crate::host::mountinfo;
use crate::log::id;
use crate::process::{Cancel, Run, describe};
use crate::store::Layout;
use crate::systemd::manager::Unit;
use crate::userland::programs::program;

/// How long zfs-mount.service may take, and what it needs.
const LIMIT: Duration = Duration::from_secs(5 * 60);
/// How long zfs(8) may take to mount one dataset.
const ONE: Duration = Duration::from_secs(60);
/// How long it may take to list them: there may be thousands, and the pools were imported just now.
const LIST: Duration = Duration::from_secs(5 * 60);
/// How long the first mount waits for keys. Keys that nobody has to type are loaded by then.
const KEYS: Duration = Duration::from_secs(20);

/// The progress of the mounts.
pub(super) struct Mounts {
    /// zfs-mount.service, if the boot would have started it.
    own: Option<Unit>,
    /// Units that load keys and are not done.
    keys: Vec<Pending>,
    /// What was reported already.
    said: BTreeSet<String>,
    /// What was mounted last is to be shared, too.
    pub(super) to_share: bool,
}

impl Mounts {
    /// Mounts what the boot would have mounted, unless something is in the way.
    pub(super) fn begin(late: &mut Late<'_>) -> Mounts {
        let own = late.look_at(MOUNT).ok().flatten();
        late.taken(MOUNT);
        let mut mounts = Mounts { own, keys: Vec::new(), said: BTreeSet::new(), to_share: false };
        if !late.may_go_on(MOUNT) {
            // Whoever completes the import later must not mount over anything either.
            guard::keep(late, None, &[]);
            return mounts;
        }
        // Units that load keys may pull in mounts for their key files: decide first what must not
        // be mounted.
        let Some(decision) = mounts.look(late) else { return mounts };
        let keys = mounts.key_units(late, &decision);
        let begun = late.begin_all(&keys);
        if begun.is_empty() {
            mounts.mount(late, &decision);
            return mounts;
        }
        mounts.keys = late.wait(begun, KEYS);
        for pending in &mounts.keys {
            late.say(pending.unit(), "is not done yet; what can be mounted without it is mounted");
        }
        if let Some(decision) = mounts.look(late) {
            mounts.mount(late, &decision);
        }
        mounts
    }

    /// Whether units that load keys are not done.
    pub(super) fn is_waiting(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Waits for the keys, and mounts what they unlock. Returns whether something may have changed.
    pub(super) fn end(&mut self, late: &mut Late<'_>) -> bool {
        if !self.is_waiting() {
            return false;
        }
        let keys = std::mem::take(&mut self.keys);
        for pending in late.wait(keys, LIMIT) {
            late.not_in_time(&pending);
        }
        self.to_share = false;
        if let Some(decision) = self.look(late) {
            self.mount(late, &decision);
        }
        true
    }

    /// Decides, and blocks and reports what is refused.
    fn look(&mut self, late: &mut Late<'_>) -> Option<Decision> {
        match decided(late, self.own.is_some()) {
            Ok(decision) => {
                let held = guard::keep(late, Some(&decision.refused), &decision.avoided);
                if held && self.said.insert(MOUNT.to_owned()) {
                    let how = format!("rm {}; systemctl start {MOUNT}", Layout::MOUNTS_REFUSED);
                    late.say(MOUNT, &format!("held back; when it is decided: {how}"));
                }
                for refused in &decision.refused {
                    if self.said.insert(refused.dataset.name.clone()) {
                        refuse(late, refused);
                    }
                }
                Some(decision)
            }
            // A pool that is not there gives an empty list, not an error.
            Err(e) => {
                guard::keep(late, None, &[]);
                keep_off_all(late);
                let why = format!("not started, for it is not known what it would cover: {e:#}");
                late.failed(MOUNT, &why);
                None
            }
        }
    }

    /// The units that load keys of what the boot wanted to mount, and the units that an operator
    /// has put before zfs-mount.service for that.
    fn key_units(&self, late: &mut Late<'_>, decision: &Decision) -> Vec<String> {
        let locked = decision.locked.iter().chain(&decision.mount);
        let refused = decision.refused.iter().map(|r| &r.dataset);
        let units = locked.chain(refused).filter(|d| d.is_wanted()).filter_map(|d| d.unit.as_ref());
        let keys: BTreeSet<String> = units.flat_map(|unit| unit.keys.clone()).collect();
        let own = self.own.as_ref().map(before).unwrap_or_default();
        // A unit that is not installed, or is active, is not worth a line.
        let there = |name: &String| {
            late.ask(name).is_ok_and(|unit| unit.load != "not-found" && unit.active != "active")
        };
        own.into_iter().chain(keys).filter(there).collect()
    }

    fn mount(&mut self, late: &mut Late<'_>, decision: &Decision) {
        for (place, content) in &decision.hidden {
            info!(
                message_id = id::LATE_STEP,
                zfs_prefix_stage = late.stage,
                "{} has {content} in it, which will be hidden",
                place.display()
            );
        }
        let by_unit = decision.mount.iter().filter(|d| d.is_wanted());
        for unit in by_unit.filter_map(|d| d.unit.as_ref()) {
            // Somebody may be typing its key.
            if unit.keys.is_empty() {
                late.bring_up(&unit.name, LIMIT);
            }
        }
        let left: Vec<&Dataset> = decision.mount.iter().filter(|d| d.is_left_to_zfs()).collect();
        let waits = |d: &&Dataset| self.is_waiting() && is_below_locked(decision, d);
        let (later, now): (Vec<&Dataset>, Vec<&Dataset>) = left.into_iter().partition(waits);
        self.to_share |= now.iter().any(|dataset| dataset.shared);
        let Some(own) = &self.own else { return };
        // If it is active, it does nothing more for what was imported since.
        let whole = own.active != "active" || now.is_empty();
        if decision.refused.is_empty() && later.is_empty() && whole {
            if late.bring_up_always(MOUNT, false, LIMIT) == Step::Done {
                self.own.iter_mut().for_each(|unit| unit.active = "active".to_owned());
            }
        } else {
            one_by_one(late, &now)
        }
    }
}

/// Whether `dataset` lies in one that is still locked. If it were mounted first, the other would
/// cover it.
fn is_below_locked(decision: &Decision, dataset: &Dataset) -> bool {
    decision.locked.iter().any(|locked| dataset.mountpoint.starts_with(&locked.mountpoint))
}

/// Looks for datasets that should be mounted and are not, and keeps units off that need one.
/// Returns the first dataset that failed or was refused, in words. One that waits for a key has
/// done neither.
pub(super) fn missing(late: &mut Late<'_>, mounts: &Mounts) -> Option<String> {
    let decision = match decided(late, mounts.own.is_some()) {
        Ok(decision) => decision,
        Err(_) => return Some("it is not known whether all datasets are mounted".to_owned()),
    };
    let blocked = |dataset: &Dataset, why: String, later: bool| Blocked {
        unit: dataset.unit.as_ref().map(|unit| unit.name.clone()).unwrap_or_default(),
        place: Some(dataset.mountpoint.clone()),
        why,
        guarded: true,
        later,
    };
    let mut failed = Vec::new();
    for dataset in &decision.mount {
        let why = format!("{} is not mounted", dataset.name);
        let later = mounts.is_waiting() && is_below_locked(&decision, dataset);
        if !later && !dataset.partial {
            failed.push(why.clone());
        }
        late.blocked.push(blocked(dataset, why, later));
    }
    for dataset in &decision.locked {
        let why = format!("{} is not mounted (its key is not loaded)", dataset.name);
        late.blocked.push(blocked(dataset, why, mounts.is_waiting()));
    }
    let refused = decision.refused.iter().map(|r| format!("{} is not mounted", r.dataset.name));
    failed.into_iter().chain(refused).next()
}

fn decided(late: &mut Late<'_>, all: bool) -> Result<Decision> {
    let units = units::idle(late)?;
    if !all && units.is_empty() {
        // Nobody mounts anything here.
        return Ok(Decision::default());
    }
    let listed = listed(late)?;
    let path = late.host.path("/proc/self/mountinfo");
    let info = std::fs::read(&path).with_context(|| path.display().to_string())?;
    let mounts = mountinfo::read(&info);
    let datasets = datasets::missing(&listed.lines, &units, &mounts, all);
    let look = |path: &Path, ways: &content::Ways| content::look(&late.host.path(path), ways);
    Ok(datasets::decide(&datasets, &mounts, look))
}

fn listed(late: &Late<'_>) -> Result<datasets::Listed> {
    let zfs = program(late.host, "zfs").context("there is no zfs program")?;
    let list = Run::new(&zfs)
        .args(["list", "-H", "-t", "filesystem", "-o", datasets::COLUMNS])
        .env("LC_ALL", "C.UTF-8")
        .within(late.left(LIST));
    let mut text = String::new();
    let ended = list.lines(&Cancel::default(), |line| {
        text.push_str(line);
        text.push('\n');
    })?;
    ensure!(
        ended.status.success() && ended.beyond.is_none(),
        "{}: {}: {}",
        list.shown(),
        describe(ended.status),
        Vec::from(ended.tail).join(" / ")
    );
    // Its complaints and its answer come in one stream.
    if text.trim_end() == "no datasets available" {
        return Ok(datasets::Listed::default());
    }
    let listed = datasets::parse(&text)?;
    for complaint in &listed.complaints {
        warn!(zfs_prefix_stage = late.stage, "{}: {complaint}", list.shown());
    }
    Ok(listed)
}

/// Nothing is known of the datasets: keeps every unit off that needs one of them.
fn keep_off_all(late: &mut Late<'_>) {
    let Ok(units) = units::idle(late) else { return };
    late.blocked.extend(units.into_iter().map(|unit| Blocked {
        why: format!("{} is not mounted", unit.what),
        guarded: guard::guarded(&unit.absent_paths),
        place: Some(unit.place),
        unit: unit.name,
        later: false,
    }));
}

fn one_by_one(late: &mut Late<'_>, datasets: &[&Dataset]) {
    let Some(zfs) = program(late.host, "zfs") else { return };
    let mut failed: Vec<(PathBuf, String)> = Vec::new();
    for dataset in datasets {
        let what = format!("zfs mount {}", dataset.name);
        if !late.may_go_on(&what) {
            continue;
        }
        if let Some((_, above)) = failed.iter().find(|(p, _)| dataset.mountpoint.starts_with(p)) {
            late.failed(&what, &format!("not tried: {above}, above it, is not mounted"));
            failed.push((dataset.mountpoint.clone(), dataset.name.clone()));
            continue;
        }
        let run = Run::new(&zfs).args(["mount", &dataset.name]).env("PATH", "/usr/sbin:/usr/bin");
        match run.within(late.left(ONE)).output(&Cancel::default()) {
            Ok(_) => {
                late.say(&what, &format!("mounted at {}", dataset.mountpoint.display()));
                late.started.push(what);
            }
            // As `zfs mount -a` does.
            Err(e) if dataset.partial => late.say(&what, &format!("left out, not complete: {e:#}")),
            Err(e) => {
                late.failed(&what, &format!("{e:#}"));
                failed.push((dataset.mountpoint.clone(), dataset.name.clone()));
            }
        }
    }
}
