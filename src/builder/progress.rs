//! Tells the service manager how far a build is.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use crate::process::cpu::{Watch, Whose};

/// How much longer the service manager shall wait each time there was progress.
const EXTEND: Duration = Duration::from_secs(10 * 60);
/// STATUS= is sent at most this often.
const STATUS_EVERY: Duration = Duration::from_millis(1000);
/// EXTEND_TIMEOUT_USEC= is sent at most this often.
const EXTEND_EVERY: Duration = Duration::from_secs(30);

/// How many lines OpenZFS 2.3.2 prints (facts: 372 `checking`, 305 `CC|AS|LD [M]`). This is a first
/// estimate: later builds use the counts of the last build.
pub const ESTIMATE: Counts = Counts { checks: 372, objects: 305 };

/// How many configure checks were made and how many objects compiled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Counts {
    /// configure's `checking …` lines.
    pub checks: u32,
    /// Kbuild's `CC [M]`, `AS [M]` and `LD [M]` lines.
    pub objects: u32,
}

/// Reports to the service manager (sd_notify(3)). Does nothing if there is no service manager.
#[derive(Debug)]
pub struct Progress {
    extend: bool,
    counts: Counts,
    expected: Counts,
    what: String,
    said: String,
    status_at: Option<Instant>,
    extended_at: Option<Instant>,
    _heartbeat: Option<Heartbeat>,
}

/// Asks the service manager for more time as long as this process or those it started use processor
/// time: a step may compute for longer than [`EXTEND`] without a word, on a busy machine above all.
/// It ends when it is dropped.
#[derive(Debug)]
pub struct Heartbeat {
    _end: Sender<()>,
}

impl Heartbeat {
    /// It beats in a thread. Without one, only output is progress.
    pub fn start() -> Heartbeat {
        let (end, ended) = mpsc::channel::<()>();
        let beat = move || {
            let mut watch = Watch::new(EXTEND, Whose::All);
            // Nothing is sent. The channel is closed at the end.
            while ended.recv_timeout(EXTEND_EVERY) == Err(RecvTimeoutError::Timeout) {
                if watch.progressed() {
                    extend();
                }
            }
        };
        let thread = std::thread::Builder::new().name("heartbeat".to_owned()).spawn(beat);
        if let Err(error) = thread {
            tracing::warn!("no thread that looks for progress: {error}");
        }
        Heartbeat { _end: end }
    }
}

impl Progress {
    /// `extend`: ask for more time while there is progress. It is false for a build that the boot
    /// waits for: the unit limits its time.
    pub fn new(extend: bool) -> Progress {
        Progress {
            extend,
            _heartbeat: extend.then(Heartbeat::start),
            counts: Counts::default(),
            expected: ESTIMATE,
            what: String::new(),
            said: String::new(),
            status_at: None,
            extended_at: None,
        }
    }

    /// A stage begins.
    pub fn stage(&mut self, text: &str) {
        self.status_at = None;
        self.status(text.to_owned());
        self.extend_timeout();
    }

    /// The compilation of `what` begins. An earlier build of it has counted `expected`.
    pub fn compiling(&mut self, what: &str, expected: Option<Counts>) {
        self.what = what.to_owned();
        self.counts = Counts::default();
        self.expected = expected.unwrap_or(ESTIMATE);
        self.stage(&format!("building {what}"));
    }

    /// A line of build output was read. That counts as progress.
    pub fn line(&mut self, line: &str) {
        if counts_as_check(line) {
            self.counts.checks += 1;
            self.status(format!(
                "configuring {} {}",
                self.what,
                of(self.counts.checks, self.expected.checks)
            ));
        } else if counts_as_object(line) {
            self.counts.objects += 1;
            self.status(format!(
                "compiling {} {}",
                self.what,
                of(self.counts.objects, self.expected.objects)
            ));
        }
        self.extend_timeout();
    }

    /// What was counted since [`Progress::compiling`].
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The service is up: READY=1, with a last STATUS.
    pub fn ready(&mut self, text: &str) {
        notify(&[NotifyState::Ready, NotifyState::Status(text)]);
    }

    /// It failed: STATUS= says why.
    pub fn failed(&mut self, text: &str) {
        notify(&[NotifyState::Status(text.lines().next().unwrap_or_default())]);
    }

    fn status(&mut self, text: String) {
        if text == self.said || self.status_at.is_some_and(|t| t.elapsed() < STATUS_EVERY) {
            return;
        }
        notify(&[NotifyState::Status(&text)]);
        self.said = text;
        self.status_at = Some(Instant::now());
    }

    fn extend_timeout(&mut self) {
        if !self.extend || self.extended_at.is_some_and(|t| t.elapsed() < EXTEND_EVERY) {
            return;
        }
        extend();
        self.extended_at = Some(Instant::now());
    }
}

fn extend() {
    let micros = u32::try_from(EXTEND.as_micros()).unwrap_or(u32::MAX);
    notify(&[NotifyState::ExtendTimeoutUsec(micros)]);
}

/// Tells the service manager. A lost notification must not end a build: the unit's own timeout
/// stands, and the journal has the same facts.
fn notify(states: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("sd_notify: {error}");
    }
}

fn of(count: u32, expected: u32) -> String {
    if count <= expected { format!("{count}/{expected}") } else { count.to_string() }
}

fn counts_as_check(line: &str) -> bool {
    line.starts_with("checking ")
}

fn counts_as_object(line: &str) -> bool {
    let mut words = line.split_whitespace();
    matches!(words.next(), Some("CC" | "AS" | "LD")) && words.next() == Some("[M]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_and_objects_are_counted_and_nothing_else() {
        let mut progress = Progress::new(false);
        progress.compiling("sys-fs/zfs-kmod", Some(Counts { checks: 1, objects: 2 }));
        for line in [
            "checking for gcc... gcc",
            "  CC [M]  /var/tmp/zfs/module/zfs/arc.o",
            "  LD [M]  /var/tmp/zfs/module/zfs.ko",
            "  AS [M]  /x.o",
            "  CC      /x.o",
            "make: checking nothing",
        ] {
            progress.line(line);
        }
        assert_eq!(progress.counts(), Counts { checks: 1, objects: 3 });
        assert_eq!((of(1, 2), of(3, 2)), ("1/2".to_owned(), "3".to_owned()));
    }
}
