//! What is behind a program that does not end: disks that do not answer, imports that go on in the
//! kernel, and what waits there. Only procfs and sysfs are read: they answer whatever ZFS waits for.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::host::Host;

/// As they are named in /proc/PID/stat; the threads of a parallel import have their program's name.
const PROGRAMS: [&str; 4] = ["zpool", "zfs", "mount.zfs", "zed"];
/// As many are named, of disks, of imports, and of processes.
const MOST: usize = 4;
/// Long enough that a disk which still works answers something.
pub(super) const PAUSE: Duration = Duration::from_secs(2);

/// Each finding in words; none: nothing that hangs was seen. Takes as long as `pause`.
pub(super) fn findings(host: &Host, pause: Duration) -> Vec<String> {
    let mut before = requests(host);
    before.retain(|_, then| then.waiting > 0);
    let after = match before.is_empty() {
        true => BTreeMap::new(),
        false => {
            std::thread::sleep(pause);
            requests(host)
        }
    };
    let silent = after.iter().filter(|(name, now)| {
        now.waiting > 0 && before.get(*name).is_some_and(|then| now.answered == then.answered)
    });
    let disk = |(name, now): (&String, &Requests)| {
        let requests = if now.waiting == 1 { "a request" } else { "requests" };
        format!("{name} has not answered {requests} for {} s", pause.as_secs())
    };
    let disks = silent.map(disk).take(MOST);
    let others = [imports(host), processes(host)].map(|found| found.into_iter().take(MOST));
    disks.chain(others.into_iter().flatten()).collect()
}

/// What a block device was asked (Documentation/block/stat.rst of the kernel).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Requests {
    answered: u64,
    waiting: u64,
}

fn requests(host: &Host) -> BTreeMap<String, Requests> {
    let devices = entries(&host.path("/sys/block"));
    let of = |name: String| {
        let stat = host.path("/sys/block").join(&name).join("stat");
        Some((name, parse(&fs::read_to_string(stat).ok()?)?))
    };
    devices.filter_map(of).collect()
}

/// Reads, writes, discards and flushes that are done, and all that are not; discards came with Linux
/// 4.18, flushes with 5.5.
fn parse(stat: &str) -> Option<Requests> {
    let columns: Vec<u64> = stat.split_whitespace().map_while(|c| c.parse().ok()).collect();
    let answered = [0, 4, 11, 15].iter().filter_map(|n| columns.get(*n)).sum();
    Some(Requests { answered, waiting: *columns.get(8)? })
}

/// The pools that the kernel is at importing, and how far it is: import_progress of OpenZFS since 0.8
/// (spa_import_progress_show_header and spa_import_progress_show in spa_misc.c).
fn imports(host: &Host) -> Vec<String> {
    let text = fs::read_to_string(host.path("/proc/spl/kstat/zfs/import_progress"));
    let text = text.unwrap_or_default();
    let mut lines = text.lines();
    let header = lines.next().unwrap_or_default();
    // What is done is the last column where there is one; names, which may have blanks in them, are
    // filled up to it.
    let width = match (header.find("pool_name"), header.find("notes")) {
        (Some(name), Some(notes)) if name < notes => notes - name - 1,
        _ => usize::MAX,
    };
    lines.filter_map(|line| import(line, width)).collect()
}

/// A line: guid, state, seconds of multihost and txg as numbers, the name and the notes; `-` is none.
fn import(line: &str, width: usize) -> Option<String> {
    let mut rest = line;
    for _ in 0..4 {
        let (number, after) = rest.trim_start().split_once(char::is_whitespace)?;
        number.parse::<i128>().ok()?;
        rest = after.trim_start();
    }
    let end = rest.bytes().skip(width).position(|byte| byte == b' ').map(|blank| width + blank);
    let (name, notes) = end.map_or((rest, ""), |end| rest.split_at(end));
    let name = match name.trim_end() {
        "-" => "a pool",
        name => name,
    };
    match notes.trim() {
        "" | "-" => Some(format!("the import of {name} goes on in the kernel")),
        notes => Some(format!("the import of {name} goes on in the kernel ({notes})")),
    }
}

/// OpenZFS's programs that wait where no signal reaches them, the longest-running first. One whose
/// main thread is gone has others that are still there.
fn processes(host: &Host) -> Vec<String> {
    let proc = host.path("/proc");
    let mut found = Vec::new();
    for pid in entries(&proc).filter(|name| name.bytes().all(|b| b.is_ascii_digit())) {
        let tasks = proc.join(&pid).join("task");
        let stuck = |task: String| {
            let task = tasks.join(task);
            let started = uninterruptible(&fs::read_to_string(task.join("stat")).ok()?)?;
            Some((started, format!("process {pid} ({}) hangs in the kernel", what(&task))))
        };
        found.extend(entries(&tasks).filter_map(stuck).min());
    }
    found.sort();
    found.into_iter().map(|(_, words)| words).collect()
}

/// When a thread of [`PROGRAMS`] was started, in clock ticks since the boot, if it is in state D
/// (proc_pid_stat(5)).
fn uninterruptible(stat: &str) -> Option<u64> {
    let (start, rest) = stat.rsplit_once(')')?;
    let (_, name) = start.split_once('(')?;
    let columns: Vec<&str> = rest.split_whitespace().collect();
    if !PROGRAMS.contains(&name) || columns.first() != Some(&"D") {
        return None;
    }
    columns.get(19)?.parse().ok()
}

/// The command line of a thread and the unit it is of, as far as they are known.
fn what(task: &Path) -> String {
    let read = |name| fs::read(task.join(name)).unwrap_or_default();
    let line = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
    let groups = String::from_utf8_lossy(&read("cgroup")).into_owned();
    let unit =
        groups.lines().filter_map(|l| l.rsplit('/').next()).find(|u| u.ends_with(".service"));
    match (line.trim_end(), unit) {
        ("", None) => "it is ending".to_owned(),
        ("", Some(unit)) => unit.to_owned(),
        (line, None) => line.to_owned(),
        (line, Some(unit)) => format!("{line}, of {unit}"),
    }
}

fn entries(directory: &Path) -> impl Iterator<Item = String> + use<> {
    let read = fs::read_dir(directory).into_iter().flatten().flatten();
    read.filter_map(|entry| entry.file_name().into_string().ok())
}

#[cfg(test)]
mod tests {
    use super::super::tests::host;
    use super::*;

    fn write(host: &Host, path: &str, content: &str) {
        let path = host.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// /proc/PID/stat as far as it is read here, of a thread started at this clock tick.
    fn stat(name: &str, state: char, started: u64) -> String {
        format!("1 ({name}) {state} {}{started} 0 0", "0 ".repeat(18))
    }

    #[test]
    fn a_disk_is_silent_that_answers_nothing_while_something_waits() {
        let (_root, host) = host();
        assert_eq!(findings(&host, PAUSE), [""; 0]);
        for (disk, stat) in [
            ("sda", "10 0 80 5 3 0 24 9 0 12 14 0 0 0 0 1 2"),
            ("sdb", "10 0 80 5 3 0 24 9 1 12 14 0 0 0 0 1 2"),
            ("sdc", " 7 0 80 5 3 0 24 9 3 12 14\n"),
            ("sr0", "torn"),
        ] {
            write(&host, &format!("/sys/block/{disk}/stat"), stat);
        }
        let found = findings(&host, Duration::from_millis(1));
        assert_eq!(
            found,
            ["sdb has not answered a request for 0 s", "sdc has not answered requests for 0 s"]
        );
        let busy = std::thread::spawn({
            let host = host.clone();
            move || {
                std::thread::sleep(Duration::from_millis(300));
                // A flush of the one, a write of the other.
                write(&host, "/sys/block/sdb/stat", "10 0 80 5 3 0 24 9 1 12 14 0 0 0 0 2 2");
                write(&host, "/sys/block/sdc/stat", "7 0 80 5 4 0 24 9 2 12 14");
            }
        });
        assert_eq!(findings(&host, Duration::from_secs(1)), [""; 0]);
        busy.join().unwrap();
    }

    #[test]
    fn imports_that_go_on_are_named_as_each_release_has_them() {
        let (_root, host) = host();
        let progress = "/proc/spl/kstat/zfs/import_progress";
        let goes_on = "goes on in the kernel";
        write(
            &host,
            progress,
            "pool_guid load_state multihost_secs max_txg pool_name        notes\n\
             1234567890123456789 3 0 18446744073709551615 h                Syncing ZIL claims\n\
             1234567890123456789 1 -1 0 a b              -\n\
             12 1 0 0 a-name-of-many-letters Loading BRT\n\
             13 1 0 0 -                -\n\
             14 1\n",
        );
        assert_eq!(
            findings(&host, PAUSE),
            [
                format!("the import of h {goes_on} (Syncing ZIL claims)"),
                format!("the import of a b {goes_on}"),
                format!("the import of a-name-of-many-letters {goes_on} (Loading BRT)"),
                format!("the import of a pool {goes_on}"),
            ]
        );
        write(
            &host,
            progress,
            "pool_guid load_state multihost_secs max_txg pool_name\n12 3 0 0 an old one\n",
        );
        assert_eq!(findings(&host, PAUSE), [format!("the import of an old one {goes_on}")]);
    }

    #[test]
    fn programs_in_the_kernel_are_named_with_their_unit_and_those_that_can_be_ended_are_not() {
        let (_root, host) = host();
        for (task, stat) in [
            ("512/task/512", stat("zfs", 'D', 900)),
            // Its main thread is gone, two of the others wait.
            ("319/task/319", stat("zpool", 'Z', 400)),
            ("319/task/377", stat("zpool", 'D', 420)),
            ("319/task/378", stat("zpool", 'D', 421)),
            ("601/task/601", stat("zpool", 'S', 950)),
            ("602/task/602", stat("a) D (b", 'D', 960)),
            ("603/task/603", stat("zpool) D (", 'S', 960)),
            ("604/task/604", "604 (zpool".to_owned()),
            ("700/task/700", stat("mount.zfs", 'D', 970)),
            ("self/task/700", stat("mount.zfs", 'D', 970)),
        ] {
            write(&host, &format!("/proc/{task}/stat"), &stat);
        }
        write(&host, "/proc/319/task/377/cmdline", "zpool\0import\0-aN\0");
        let unit = "0::/system.slice/zfs-import-cache.service\n";
        write(&host, "/proc/319/task/377/cgroup", unit);
        write(&host, "/proc/512/task/512/cmdline", "zfs\0mount\0-a\0");
        write(&host, "/proc/512/task/512/cgroup", "0::/user.slice/session-1.scope\n");
        assert_eq!(
            findings(&host, PAUSE),
            [
                "process 319 (zpool import -aN, of zfs-import-cache.service) hangs in the kernel",
                "process 512 (zfs mount -a) hangs in the kernel",
                "process 700 (it is ending) hangs in the kernel",
            ]
        );
    }
}
