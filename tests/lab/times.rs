//! The cost of everything. `<lab>/times.tsv` has a line for each test, boot, machine, artefact and
//! step of a run: its seconds, and the processor seconds of it and of its children.

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, SysconfVar, sysconf};

use super::turns::{self, Turn};

/// The number of lines that the file keeps: some twenty runs.
const KEPT: usize = 20_000;

thread_local! {
    /// Processor time of the children that this thread has seen end.
    static CHILDREN: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    /// How long this thread has waited without a turn.
    static IDLE: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    /// The test that this thread is.
    static TEST: RefCell<Option<Test>> = const { RefCell::new(None) };
}

/// Dropped when the thread ends, and with it the test.
struct Test {
    _timed: Timed,
    _turn: Turn,
}

/// Begins a test. The first call in a test's thread waits for the test's turn. In other threads
/// this does nothing.
pub fn test() {
    let begun = TEST.with_borrow(Option::is_some);
    let name = std::thread::current().name().filter(|name| *name != "main").map(str::to_owned);
    let Some(name) = name.filter(|_| !begun) else { return };
    let turn = Turn::take(&name);
    let timed = Timed::begin("test", &name);
    TEST.set(Some(Test { _timed: timed, _turn: turn }));
}

/// Gives the test's turn to others while `wait` waits for something that they make.
pub fn idle<T>(wait: impl FnOnce() -> T) -> T {
    if TEST.with_borrow(Option::is_none) {
        return wait();
    }
    let since = Instant::now();
    let result = turns::idle(wait);
    IDLE.set(IDLE.get() + since.elapsed());
    result
}

/// Something that takes time. It ends when this is dropped.
#[derive(Debug)]
pub struct Timed {
    kind: &'static str,
    name: String,
    at: SystemTime,
    since: Instant,
    idle: Duration,
    processor: Duration,
}

impl Timed {
    /// `kind` is one of test, boot, machine, artefact.
    pub fn begin(kind: &'static str, name: &str) -> Timed {
        let (at, since) = (SystemTime::now(), Instant::now());
        let (idle, processor) = (IDLE.get(), processor());
        Timed { kind, name: name.to_owned(), at, since, idle, processor }
    }

    /// The seconds until now, without those that the thread has waited without a turn.
    pub fn seconds(&self) -> f64 {
        let idle = IDLE.get().saturating_sub(self.idle);
        self.since.elapsed().saturating_sub(idle).as_secs_f64()
    }
}

impl Drop for Timed {
    fn drop(&mut self) {
        let processor = processor().saturating_sub(self.processor).as_secs_f64();
        let at = self.at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let line = format!(
            "{}\t{}\t{}\t{at}\t{:.1}\t{processor:.1}\n",
            run(),
            self.kind,
            self.name,
            self.seconds()
        );
        // A failed measurement must not break a test.
        let path = super::place().join("times.tsv");
        let file = File::options().create(true).append(true).open(path);
        drop(file.and_then(|mut file| file.write_all(line.as_bytes())));
    }
}

/// The run that this process belongs to: `$ZFS_PREFIX_RUN`, which make sets, or the process itself.
fn run() -> String {
    std::env::var("ZFS_PREFIX_RUN").unwrap_or_else(|_| format!("p{}", std::process::id()))
}

/// The processor time of this thread and of the children that it has seen end.
fn processor() -> Duration {
    let own = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from);
    own.unwrap_or_default() + CHILDREN.get()
}

/// Waits until a child has ended, but leaves its status for wait(2). Adds its processor time (and
/// that of the children that it has waited for) to this thread's.
pub fn ended(pid: u32) {
    let pid = pid.cast_signed();
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
    if waitid(Id::Pid(Pid::from_raw(pid)), flags).is_ok() {
        count(pid);
    }
}

/// Whether a child has ended, so that wait(2) returns at once.
#[must_use]
pub fn has_ended(pid: u32) -> bool {
    let pid = pid.cast_signed();
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT | WaitPidFlag::WNOHANG;
    let status = waitid(Id::Pid(Pid::from_raw(pid)), flags);
    !matches!(status, Ok(nix::sys::wait::WaitStatus::StillAlive))
}

/// Adds the processor time of a child that has ended and has not been waited for.
fn count(pid: i32) {
    // proc_pid_stat(5): utime, stime, cutime, cstime are fields 14 to 17; the name may have blanks.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: u64 = fields.skip(11).take(4).filter_map(|f| f.parse::<u64>().ok()).sum();
    let second = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
    let second = u64::try_from(second).unwrap_or(100);
    CHILDREN.set(CHILDREN.get() + Duration::from_millis(ticks * 1000 / second));
}

/// The `most` longest lines of the run, and the total of each kind.
///
/// # Errors
/// There are no times.
pub fn report(run: &str, most: usize) -> Result<String> {
    let path = super::place().join("times.tsv");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let mut rows: Vec<(f64, f64, &str, &str)> = text.lines().filter_map(|l| row(l, run)).collect();
    rows.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut out = String::new();
    for kind in ["step", "artefact", "test", "boot", "machine"] {
        let of: Vec<_> = rows.iter().filter(|row| row.2 == kind).collect();
        let sums = of.iter().fold((0.0, 0.0), |s, row| (s.0 + row.0, s.1 + row.1));
        writeln!(out, "{kind:9} {:4}  {:7.1} s  {:7.1} processor s", of.len(), sums.0, sums.1)?;
    }
    writeln!(out, "the {most} longest (seconds, processor seconds):")?;
    for (seconds, processor, kind, name) in rows.iter().take(most) {
        writeln!(out, "{seconds:8.1} {processor:8.1}  {kind:9} {name}")?;
    }
    Ok(out)
}

fn row<'a>(line: &'a str, run: &str) -> Option<(f64, f64, &'a str, &'a str)> {
    let mut fields = line.split('\t');
    let (of, kind, name) = (fields.next()?, fields.next()?, fields.next()?);
    let (seconds, processor) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
    (of == run).then_some((seconds, processor, kind, name))
}

/// Removes all but the newest lines.
///
/// # Errors
/// The file cannot be written.
pub fn trim() -> Result<()> {
    let path = super::place().join("times.tsv");
    let text = fs::read_to_string(&path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    if lines.len() <= KEPT {
        return Ok(());
    }
    let kept = lines[lines.len() - KEPT..].join("\n") + "\n";
    let new = path.with_extension("new");
    fs::write(&new, kept)?;
    fs::rename(new, path).context("times.tsv")
}
