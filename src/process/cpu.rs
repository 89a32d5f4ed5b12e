//! Processor time that this process and those it started have used. Whoever computes is alive,
//! also without a word. Nobody else's time counts.
//!
//! Two counts are kept, and either one shows progress:
//! - The control group's (cgroups(7)), if nobody else is in it, as in a service of systemd. It
//!   includes all that has ended.
//! - That of the descendants, each with the children that it waited for. Children that nobody waits
//!   for are lost from it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::resource::{Usage, UsageWho, getrusage};
use nix::sys::time::TimeVal;
use nix::unistd::{SysconfVar, sysconf};

use super::table::{self, Process};

/// Whoever uses less than this part of the time counts as idle: a loop that only waits uses a
/// little. On a busy machine, a build with a hundredth of a processor still makes progress.
const SHARE: u32 = 500;
/// Less cannot be told from nothing. One clock tick has 10 ms.
const LEAST: Duration = Duration::from_millis(20);

/// Whose processor time counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// That of the processes which this one started, and theirs.
    Started,
    /// That of this process, too.
    All,
}

/// Sees whether processor time is used.
#[derive(Debug)]
pub struct Watch {
    whose: Whose,
    least: Duration,
    group: Option<Duration>,
    processes: Option<Duration>,
}

impl Watch {
    /// Whoever uses no processor time worth mentioning in `limit` makes no progress.
    pub fn new(limit: Duration, whose: Whose) -> Watch {
        let now = used(whose);
        let least = (limit / SHARE).max(LEAST);
        Watch { whose, least, group: now.group, processes: Some(now.processes) }
    }

    /// Whether enough was used since this returned true the last time.
    pub fn progressed(&mut self) -> bool {
        let now = used(self.whose);
        let least = self.least;
        let grown = |last: &mut Option<Duration>, now: Option<Duration>| match (*last, now) {
            (Some(before), Some(now)) if now >= before => now - before >= least,
            // Processes have vanished from the count, or this is the first one.
            (_, Some(now)) => {
                *last = Some(now);
                false
            }
            (_, None) => false,
        };
        let by_group = grown(&mut self.group, now.group);
        let by_processes = grown(&mut self.processes, Some(now.processes));
        if by_group || by_processes {
            self.group = now.group.or(self.group);
            self.processes = Some(now.processes);
        }
        by_group || by_processes
    }
}

/// The two counts.
struct Used {
    group: Option<Duration>,
    processes: Duration,
}

fn used(whose: Whose) -> Used {
    let (own, children) = (of(UsageWho::RUSAGE_SELF), of(UsageWho::RUSAGE_CHILDREN));
    // The groups before the table: a process that is started meanwhile is in the table alone.
    let groups = own_groups();
    let table = table::all();
    let started = table::below(std::process::id(), &table);
    let ticks: u64 = started.iter().map(|process| process.ticks).sum();
    let started_time = children + time_of(ticks);
    let group = groups.iter().find(|group| group.is_ours(&table, &started));
    let group = group.map(|group| group.used);
    match whose {
        Whose::Started => {
            Used { group: group.map(|all| all.saturating_sub(own)), processes: started_time }
        }
        Whose::All => Used { group, processes: started_time + own },
    }
}

/// User and system time (getrusage(2)).
fn of(who: UsageWho) -> Duration {
    let one = |time: TimeVal| {
        let seconds = Duration::from_secs(u64::try_from(time.tv_sec()).unwrap_or(0));
        seconds + Duration::from_micros(u64::try_from(time.tv_usec()).unwrap_or(0))
    };
    let both = |usage: Usage| one(usage.user_time()) + one(usage.system_time());
    getrusage(who).map_or(Duration::ZERO, both)
}

fn time_of(ticks: u64) -> Duration {
    let hertz = sysconf(SysconfVar::CLK_TCK).ok().flatten().and_then(|n| u64::try_from(n).ok());
    Duration::from_millis(ticks.saturating_mul(1000) / hertz.filter(|n| *n > 0).unwrap_or(100))
}

/// A control group and the processor time that was used in it.
struct Group {
    pids: Vec<i32>,
    used: Duration,
}

impl Group {
    /// Whether everybody in it is this process or one of those it `started`.
    fn is_ours(&self, table: &[Process], started: &[Process]) -> bool {
        let own = i32::try_from(std::process::id()).unwrap_or(0);
        let known = |pid: &i32| table.iter().any(|process| process.pid == *pid);
        let ours = |pid: &i32| *pid == own || started.iter().any(|process| process.pid == *pid);
        // A process of another PID namespace is 0. One that is not in the table has ended.
        self.pids.contains(&own)
            && self.pids.iter().all(|pid| *pid != 0 && (ours(pid) || !known(pid)))
    }
}

/// The groups of this process that count processor time, without those that have groups below.
fn own_groups() -> Vec<Group> {
    let read = |name: &str| fs::read_to_string(name).unwrap_or_default();
    let group = |dir: PathBuf| {
        let pids = fs::read_to_string(dir.join("cgroup.procs")).ok()?;
        let mut below = fs::read_dir(&dir).ok()?.flatten();
        if below.any(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            return None;
        }
        let pids = pids.lines().filter_map(|line| line.parse().ok()).collect();
        Some(Group { pids, used: time_in(&dir)? })
    };
    let places = places(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"));
    places.into_iter().filter_map(group).collect()
}

/// Version 2: `cpu.stat` in microseconds. Version 1: `cpuacct.usage` in nanoseconds
/// (Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/cpuacct.rst).
fn time_in(dir: &Path) -> Option<Duration> {
    let read = |name: &str| fs::read_to_string(dir.join(name)).ok();
    let two = read("cpu.stat").and_then(|text| {
        let usage = text.lines().find_map(|line| line.strip_prefix("usage_usec "))?;
        Some(Duration::from_micros(usage.trim().parse().ok()?))
    });
    two.or_else(|| Some(Duration::from_nanos(read("cpuacct.usage")?.trim().parse().ok()?)))
}

/// The directories of this process's groups that count processor time, from /proc/PID/mountinfo and
/// /proc/PID/cgroup (proc(5), cgroups(7)): those of version 2, and of `cpuacct` in version 1.
fn places(mounts: &str, groups: &str) -> Vec<PathBuf> {
    let path_of = |counts: &dyn Fn(&str) -> bool| {
        groups.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            counts(controllers).then(|| PathBuf::from(path))
        })
    };
    let place = |line: &str| {
        let (mount, kind) = line.split_once(" - ")?;
        let (mount, kind): (Vec<&str>, Vec<&str>) =
            (mount.split(' ').collect(), kind.split(' ').collect());
        let path = match kind[..] {
            ["cgroup2", ..] => path_of(&str::is_empty)?,
            ["cgroup", _, options] if options.split(',').any(|o| o == "cpuacct") => {
                path_of(&|controllers| controllers.split(',').any(|c| c == "cpuacct"))?
            }
            _ => return None,
        };
        // A mount may show a part of the hierarchy.
        let (root, target) = (mount.get(3)?, mount.get(4)?);
        let below = path.strip_prefix(root).ok()?;
        Some(Path::new(target).join(below))
    };
    mounts.lines().filter_map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_that_count_time_are_found_in_both_versions() {
        let two =
            "25 23 0:22 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let one = "\
            30 24 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n\
            31 30 0:27 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n\
            32 30 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
            33 30 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n";
        let part = "40 1 0:29 /box /sys/fs/cgroup/cpuacct rw - cgroup cgroup rw,cpuacct\n";
        let unit = "0::/system.slice/zfs-build.service\n";
        let hybrid = "4:cpu,cpuacct:/box/a\n2:cpuset:/x\n1:name=systemd:/b\n0::/c\n";
        for (case, mounts, groups, want) in [
            ("version 2", two, unit, vec!["/sys/fs/cgroup/system.slice/zfs-build.service"]),
            (
                "both",
                one,
                hybrid,
                vec!["/sys/fs/cgroup/unified/c", "/sys/fs/cgroup/cpu,cpuacct/box/a"],
            ),
            ("a part", part, hybrid, vec!["/sys/fs/cgroup/cpuacct/a"]),
            ("elsewhere", part, "4:cpuacct:/other\n", vec![]),
            ("none", "", unit, vec![]),
            ("junk", "x - cgroup2\n1 - cgroup", "junk\n0:", vec![]),
        ] {
            let want: Vec<PathBuf> = want.into_iter().map(PathBuf::from).collect();
            assert_eq!(places(mounts, groups), want, "{case}");
        }
    }

    #[test]
    fn a_group_with_somebody_else_in_it_does_not_count() {
        let own = i32::try_from(std::process::id()).unwrap();
        let process = |pid, parent| Process { pid, parent, ended: false, ticks: 0 };
        let (child, other) = (process(own + 1, own), process(own + 2, 1));
        let table = [process(own, 1), child, other];
        for (case, pids, ours) in [
            ("alone", vec![own], true),
            ("with a child", vec![own, own + 1], true),
            ("with one that has ended", vec![own, own + 3], true),
            ("with another", vec![own, own + 1, own + 2], false),
            ("with one of another namespace", vec![own, 0], false),
            ("not in it", vec![own + 1], false),
        ] {
            let group = Group { pids, used: Duration::ZERO };
            assert_eq!(group.is_ours(&table, &[child]), ours, "{case}");
        }
    }
}
