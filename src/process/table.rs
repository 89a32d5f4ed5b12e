//! The processes of the machine, by /proc/PID/stat (proc(5)).

use std::fs;

/// One process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: i32,
    pub(super) parent: i32,
    /// It has ended, and its parent has not asked how.
    pub(super) ended: bool,
    /// Processor time of its own and of the children that it waited for, in clock ticks.
    pub(super) ticks: u64,
}

/// All processes at this moment.
pub(super) fn all() -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: i32| parse(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?))
        .collect()
}

/// The descendants of `root` in `table`. They are found by their parents, so that new sessions do
/// not hide them.
pub(super) fn below(root: u32, table: &[Process]) -> Vec<Process> {
    let of = |parent: i32| table.iter().filter(move |p| p.parent == parent).copied();
    let mut found: Vec<Process> = of(i32::try_from(root).unwrap_or(0)).collect();
    let mut next = 0;
    while next < found.len() {
        let children: Vec<Process> = of(found[next].pid).collect();
        found.extend(children);
        next += 1;
    }
    found
}

/// The name in `stat` may hold anything. Behind it: state, parent, ten others, utime, stime, cutime
/// and cstime.
fn parse(pid: i32, stat: &str) -> Option<Process> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let ended = matches!(fields.next()?, "Z" | "X");
    let parent = fields.next()?.parse().ok()?;
    let times = fields.skip(9).take(4).map(|ticks| ticks.parse::<u64>().unwrap_or(0));
    Some(Process { pid, parent, ended, ticks: times.sum() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name_is() {
        let stat = "77 (a) R 5 (b) S 1 2 3 4 -1 4194560 100 2000 0 1 10 20 300 4000 20 0 1 0 9 8";
        let process = |parent, ended, ticks| Some(Process { pid: 77, parent, ended, ticks });
        assert_eq!(parse(77, stat), process(1, false, 4330));
        assert_eq!(parse(77, &stat.replace(" S 1", " Z 4")), process(4, true, 4330));
        assert_eq!(parse(77, "77 (x) S"), None);
    }

    #[test]
    fn descendants_are_those_of_children_too_and_nobody_elses() {
        let process = |pid, parent| Process { pid, parent, ended: false, ticks: 0 };
        let table = [process(9, 8), process(2, 1), process(8, 5), process(3, 2), process(5, 2)];
        let pids: Vec<i32> = below(2, &table).iter().map(|p| p.pid).collect();
        assert_eq!(pids, [3, 5, 8, 9]);
        assert_eq!(below(9, &table), []);
    }
}
