//! Finds out why a program does not end: disks that do not answer, imports that go on in the
//! kernel, and processes that wait there.
//!
//! It reads only those files of procfs and sysfs that take no lock of ZFS, and no lock of the
//! process that it looks at. /proc/PID/cmdline would take one: that of the process's memory.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::host::Host;
use crate::log::unit_of;
use crate::text::printable;

/// The programs to look for, by their names in /proc/PID/stat.
const PROGRAMS: [&str; 4] = ["zpool", "zfs", "mount.zfs", "zed"];
const BLOCK: &str = "/sys/block";
/// At most this many disks, imports, and processes are named.
const MOST: usize = 4;
/// At most this many characters of the kernel's notes on an import are repeated.
const REPEATED: usize = 200;
/// How long disks are watched. A disk that still works answers something in this time.
pub(super) const PAUSE: Duration = Duration::from_secs(2);

/// Each finding in words; the list is empty if there is none. Takes as long as `pause`, and less if
/// nothing waits.
pub(super) fn findings(host: &Host, pause: Duration) -> Vec<String> {
    let (mut disks, mut processes) = (requests(host), tasks(host));
    disks.retain(|_, disk| disk.waiting > 0);
    if !disks.is_empty() || !processes.is_empty() {
        std::thread::sleep(pause);
        let (now, still) = (requests(host), tasks(host));
        let silent = |name: &String, disk: &mut Requests| {
            let now = now.get(name);
            now.is_some_and(|now| now.waiting > 0 && now.answered == disk.answered)
        };
        disks.retain(silent);
        processes.retain(|task, switches| still.get(task) == Some(switches));
    }
    let disks =
        causes(host, &disks).into_iter().map(|disk| answers_nothing(&disk, pause)).collect();
    let mut tasks: Vec<Task> = processes.into_keys().collect();
    // Several threads of one process may wait.
    tasks.dedup_by_key(|task| task.pid);
    let waiting = tasks.iter().map(|task| waits(host, task)).collect();
    [few(disks, "disks"), few(imports(host), "imports"), few(waiting, "processes")].concat()
}

/// The first of them, and how many more there are.
fn few(mut found: Vec<String>, what: &str) -> Vec<String> {
    let more = found.len().saturating_sub(MOST);
    found.truncate(MOST);
    if more > 0 {
        found.push(format!("and {more} more {what}"));
    }
    found
}

/// The requests to a block device (Documentation/block/stat.rst of the kernel).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Requests {
    answered: u64,
    waiting: u64,
}

fn requests(host: &Host) -> BTreeMap<String, Requests> {
    // The volumes of a pool (zd*) only wait with it.
    let disks = entries(&host.path(BLOCK)).filter(|name| !name.starts_with("zd"));
    let of = |name: String| {
        let stat = host.path(BLOCK).join(&name).join("stat");
        Some((name, parse(&fs::read_to_string(stat).ok()?)?))
    };
    disks.filter_map(of).collect()
}

/// Counts the reads, writes, discards and flushes that are done, and all requests that are not.
/// Linux counts discards since 4.18, and flushes since 5.5.
fn parse(stat: &str) -> Option<Requests> {
    let columns: Vec<u64> = stat.split_whitespace().map_while(|c| c.parse().ok()).collect();
    let answered = [0, 4, 11, 15].iter().filter_map(|n| columns.get(*n)).sum();
    Some(Requests { answered, waiting: *columns.get(8)? })
}

/// Leaves out the devices that only wait for another silent one: device mapper and RAID, on disks
/// or partitions.
fn causes(host: &Host, silent: &BTreeMap<String, Requests>) -> Vec<String> {
    let block = host.path(BLOCK);
    let is_of = |disk: &String, part: &String| disk == part || block.join(disk).join(part).is_dir();
    let waits_too = |name: &String| {
        let mut parts = entries(&block.join(name).join("slaves"));
        parts.any(|part| silent.keys().any(|disk| is_of(disk, &part)))
    };
    silent.keys().filter(|name| !waits_too(name)).cloned().collect()
}

fn answers_nothing(disk: &str, pause: Duration) -> String {
    let seconds = pause.as_secs();
    format!("{disk} has requests, and answered none while it was watched for {seconds} s")
}

/// The pools that the kernel is importing, and the progress: import_progress of OpenZFS since 0.8
/// (spa_import_progress_show_header and spa_import_progress_show in spa_misc.c).
fn imports(host: &Host) -> Vec<String> {
    let text = fs::read(host.path("/proc/spl/kstat/zfs/import_progress")).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut lines = text.lines();
    let header = lines.next().unwrap_or_default();
    // The notes are the last column, if there is one. Names may contain blanks, and are padded up
    // to that column.
    let width = match (header.find("pool_name"), header.find("notes")) {
        (Some(name), Some(notes)) if name < notes => notes - name - 1,
        _ => usize::MAX,
    };
    lines.filter_map(|line| import(line, width)).collect()
}

/// A line: guid, state, seconds of multihost and txg as numbers, then the name and the notes. `-`
/// is none.
fn import(line: &str, width: usize) -> Option<String> {
    let (mut rest, mut numbers) = (line, [0; 4]);
    for number in &mut numbers {
        let (text, after) = rest.trim_start().split_once(char::is_whitespace)?;
        *number = text.parse::<i128>().ok()?;
        rest = after.trim_start();
    }
    let end = rest.bytes().skip(width).position(|byte| byte == b' ').map(|blank| width + blank);
    let (name, notes) = end.map_or((rest, ""), |end| rest.split_at(end));
    let name = match name.trim_end() {
        "-" => "a pool".to_owned(),
        name => printable(name),
    };
    // spa_load_state_t. A pool that is only looked at may be another host's.
    let what = match numbers[1] {
        1 => format!("{name} is being opened in the kernel"),
        2 | 4 => format!("the import of {name} goes on in the kernel"),
        3 => format!("{name} is looked at, not imported"),
        state => format!("{name} is in load state {state}"),
    };
    let multihost = match numbers[2] {
        1.. => format!(", {} s more for its multihost check", numbers[2]),
        _ => String::new(),
    };
    match notes.trim() {
        "" | "-" => Some(what + &multihost),
        notes => {
            let notes: String = printable(notes).chars().take(REPEATED).collect();
            Some(format!("{what} ({notes}){multihost}"))
        }
    }
}

/// A thread of one of [`PROGRAMS`]. They sort with the longest-running process first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Task {
    /// When its process was started, in clock ticks since the boot.
    started: u64,
    pid: u32,
    program: String,
    tid: u32,
}

/// Root's threads in uninterruptible sleep, and how often each has gone to sleep or been
/// interrupted: a thread that works wakes up now and then. The main thread may be gone while others
/// are still there, but it still has the name of the program.
fn tasks(host: &Host) -> BTreeMap<Task, u64> {
    let proc = host.path("/proc");
    let mut found = BTreeMap::new();
    for pid in entries(&proc).filter_map(|name| name.parse::<u32>().ok()) {
        let process = proc.join(pid.to_string());
        let Some((program, _, started)) = stat(&process) else { continue };
        let status = fs::read_to_string(process.join("status")).unwrap_or_default();
        if !PROGRAMS.contains(&program.as_str()) || number(&status, "Uid:") != Some(0) {
            continue;
        }
        let tasks = process.join("task");
        for tid in entries(&tasks).filter_map(|name| name.parse::<u32>().ok()) {
            let task = tasks.join(tid.to_string());
            let status = fs::read_to_string(task.join("status")).unwrap_or_default();
            let of = |name| number(&status, name).unwrap_or_default();
            if stat(&task).is_some_and(|(_, state, _)| state == "D") {
                let switches = of("voluntary_ctxt_switches:") + of("nonvoluntary_ctxt_switches:");
                found.insert(Task { started, pid, program: program.clone(), tid }, switches);
            }
        }
    }
    found
}

/// Name, state and start of a process or thread (proc_pid_stat(5)).
fn stat(task: &Path) -> Option<(String, String, u64)> {
    let text = fs::read(task.join("stat")).ok()?;
    let text = String::from_utf8_lossy(&text);
    let (start, rest) = text.rsplit_once(')')?;
    let mut columns = rest.split_whitespace();
    let state = columns.next()?.to_owned();
    Some((start.split_once('(')?.1.to_owned(), state, columns.nth(18)?.parse().ok()?))
}

/// The first number of a line of /proc/PID/status.
fn number(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

fn waits(host: &Host, task: &Task) -> String {
    let Task { pid, program, .. } = task;
    let cgroup = host.path(format!("/proc/{pid}/task/{}/cgroup", task.tid));
    let cgroup = fs::read_to_string(cgroup).unwrap_or_default();
    match unit_of(&cgroup) {
        Some(unit) => format!("process {pid} ({program}, of {unit}) waits in the kernel"),
        None => format!("process {pid} ({program}) waits in the kernel"),
    }
}

fn entries(directory: &Path) -> impl Iterator<Item = String> + use<> {
    let read = fs::read_dir(directory).into_iter().flatten().flatten();
    read.filter_map(|entry| entry.file_name().into_string().ok())
}

#[cfg(test)]
#[path = "hang_tests.rs"]
mod tests;
