//! The datasets: zfs-mount.service where nothing is in the way; otherwise one by one, and what lies
//! over something that somebody wrote stays unmounted.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use tracing::error;

use super::choice::before;
use super::datasets::{self, Dataset, Decision, Refused, Why};
use super::look;
use super::run::Late;
use crate::build::command::{Cancel, Run};
use crate::log::id;
use crate::store::{Layout, make_dirs, write_atomic};
use crate::zfs::programs::program;

const MOUNT: &str = "zfs-mount.service";
/// What wants the mount units of datasets.
const LOCAL_FS: &str = "local-fs.target";
/// How long zfs-mount.service may take, and what it needs.
const LIMIT: Duration = Duration::from_secs(5 * 60);
/// How long zfs(8) may take for one thing.
const ONE: Duration = Duration::from_secs(60);

/// Mounts what `zfs mount -a` would mount and nothing is in the way of.
pub(super) fn mount(late: &mut Late<'_>) {
    let Ok(Some(unit)) = late.look_at(MOUNT) else {
        late.taken(MOUNT);
        return;
    };
    // Keys may be loaded by these; what they unlock is mounted, too.
    late.bring_up_all(&before(&unit), LIMIT);
    let keys = keys(late);
    late.bring_up_all(&keys, LIMIT);
    if !late.may_go_on(MOUNT) {
        late.taken(MOUNT);
        return;
    }
    match decided(late) {
        // Active, it does nothing more for what was imported since.
        Ok(decision)
            if decision.refused.is_empty()
                && (unit.active != "active" || decision.mount.is_empty()) =>
        {
            late.bring_up(MOUNT, LIMIT);
        }
        Ok(decision) => {
            late.taken(MOUNT);
            if !decision.refused.is_empty() {
                hold_back(late, &decision.refused);
            }
            one_by_one(late, &decision.mount);
            decision.refused.iter().for_each(|refused| refuse(late, refused));
        }
        // A pool that is not there is an empty list, no error.
        Err(e) => {
            late.taken(MOUNT);
            hold_back(late, &[]);
            let why = format!("not started, for it is not known what it would cover: {e:#}");
            late.failed(MOUNT, &why);
        }
    }
}

/// The units that load the keys of what the boot wanted to mount, as zfs-mount-generator(8) names them,
/// whoever wrote them.
fn keys(late: &mut Late<'_>) -> Vec<String> {
    let mounts = late.ask(LOCAL_FS).map(|target| target.wants).unwrap_or_default();
    let mut keys = Vec::new();
    for mount in mounts.iter().filter(|name| name.ends_with(".mount")) {
        // What cannot be asked for now cannot be started either, and that is said there.
        let needs = late.ask(mount).map(|unit| unit.wants).unwrap_or_default();
        keys.extend(needs.into_iter().filter(|name| name.starts_with("zfs-load-key@")));
    }
    keys.sort();
    keys.dedup();
    keys
}

fn decided(late: &Late<'_>) -> Result<Decision> {
    let all = listed(late)?;
    let path = late.host.path("/proc/self/mountinfo");
    let info = std::fs::read(&path).with_context(|| path.display().to_string())?;
    let look = |path: &Path, ways: &look::Ways| look::look(&late.host.path(path), ways);
    Ok(datasets::decide(&all, &datasets::mounts(&info), look))
}

fn listed(late: &Late<'_>) -> Result<Vec<Dataset>> {
    let zfs = program(late.host, "zfs").context("there is no zfs program")?;
    let list = Run::new(&zfs)
        .args(["list", "-H", "-t", "filesystem", "-o", datasets::COLUMNS])
        .env("LC_ALL", "C.UTF-8")
        .within(late.left(ONE));
    let mut text = String::new();
    let ended = list.lines(&Cancel::default(), |line| {
        text.push_str(line);
        text.push('\n');
    })?;
    match ended.status.success() && ended.beyond.is_none() {
        // Its complaints and its answer come together.
        true if text.trim_end() == "no datasets available" => Ok(Vec::new()),
        true => datasets::parse(&text),
        false => Err(anyhow::anyhow!(
            "{}: {}: {}",
            list.shown(),
            crate::build::command::describe(ended.status),
            Vec::from(ended.tail).join(" / ")
        )),
    }
}

/// Keeps zfs-mount.service from mounting everything, whoever starts it: zfs.target and
/// zfs-share.service want it. Its drop-in has a condition on this file.
fn hold_back(late: &mut Late<'_>, refused: &[Refused]) {
    let layout = Layout::new(&late.host.root);
    let lines = refused
        .iter()
        .map(|r| format!("{}\t{}\t{}\n", r.dataset.name, r.dataset.mountpoint.display(), why(r)));
    let text: String = lines.collect();
    let marks = [Some(layout.mounts_refused()), shared(refused).then(|| layout.shares_refused())];
    for mark in marks.into_iter().flatten() {
        let written = make_dirs(&layout.run()).and_then(|()| write_atomic(&mark, text.as_bytes()));
        if let Err(e) = written {
            late.kept_off = Some(MOUNT);
            late.failed(MOUNT, &format!("{e:#}"));
        }
    }
    let mark = Layout::new(Path::new("/")).mounts_refused().display().to_string();
    match late.ask(MOUNT) {
        Ok(unit) if unit.absent_paths.contains(&mark) && late.kept_off.is_none() => {
            let how = format!("rm {mark}; systemctl start {MOUNT}");
            late.say(MOUNT, &format!("held back; when it is decided: {how}"));
        }
        // Not our drop-in, or an old one.
        _ => late.kept_off = Some(MOUNT),
    }
}

/// `zfs share -a` mounts what it shares.
fn shared(refused: &[Refused]) -> bool {
    refused.is_empty() || refused.iter().any(|r| r.dataset.shared)
}

fn one_by_one(late: &mut Late<'_>, datasets: &[Dataset]) {
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
            Err(e) => {
                late.failed(&what, &format!("{e:#}"));
                failed.push((dataset.mountpoint.clone(), dataset.name.clone()));
            }
        }
    }
}

fn why(refused: &Refused) -> String {
    match &refused.why {
        Why::NotEmpty(content) => format!("{content} in it"),
        Why::Unreadable(e) => format!("cannot be looked into: {e}"),
        Why::Covered(mount) => format!("{} is mounted there", mount.display()),
        Why::Below(name) => format!("below {name}, which is not mounted"),
    }
}

/// What an operator reads at three in the morning.
fn refuse(late: &mut Late<'_>, refused: &Refused) {
    let (name, at) = (&refused.dataset.name, refused.dataset.mountpoint.display());
    let message = match &refused.why {
        Why::NotEmpty(content) => format!(
            "{name} is not mounted: {at} has {content} in it, written while the pool was not there, \
             and would be hidden. Look (ls -lA '{at}'), move away what is to be kept; then: zfs \
             mount {name}"
        ),
        Why::Unreadable(e) => format!(
            "{name} is not mounted: {at} cannot be looked into ({e}). Look; then: zfs mount {name}"
        ),
        Why::Covered(mount) => format!(
            "{name} is not mounted: {} is a mount point already, and would be hidden. Look \
             (findmnt '{}'); then: zfs mount {name}",
            mount.display(),
            mount.display()
        ),
        Why::Below(above) => format!(
            "{name} is not mounted: {at} is below the mount point of {above}, which is not mounted. \
             After that one: zfs mount {name}"
        ),
    };
    error!(
        message_id = id::MOUNT_REFUSED,
        zfs_prefix_stage = late.stage,
        zfs_prefix_kernel = late.host.kernel_release.as_str(),
        zfs_prefix_dataset = name.as_str(),
        "{message}"
    );
    late.failures.push(format!("{name} not mounted ({})", why(refused)));
}
