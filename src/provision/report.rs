//! Reports how far a run is: one line on the terminal, and STATUS= for the service manager
//! (sd_notify(3)).

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use crate::builder::progress::Heartbeat;
use crate::fetch::{Watch, megabytes};

/// How much longer the service manager shall wait each time there was progress.
const EXTEND: Duration = Duration::from_secs(10 * 60);
/// Progress is reported at most this often.
const STATUS_EVERY: Duration = Duration::from_millis(500);
/// EXTEND_TIMEOUT_USEC= is sent at most this often.
const EXTEND_EVERY: Duration = Duration::from_secs(30);

/// Reports progress to the terminal and to the service manager.
#[derive(Debug)]
pub(super) struct Report {
    terminal: bool,
    begun: Instant,
    /// How many bytes were there when the transfer began.
    resumed_at: u64,
    said_at: Option<Instant>,
    extended_at: Option<Instant>,
    /// Unpacking and the audit compute without a word.
    _heartbeat: Heartbeat,
}

impl Report {
    pub(super) fn new() -> Report {
        Report {
            terminal: std::io::stderr().is_terminal(),
            begun: Instant::now(),
            resumed_at: 0,
            said_at: None,
            extended_at: None,
            _heartbeat: Heartbeat::start(),
        }
    }

    /// A line of the process that unpacks: `FILES BYTES`.
    pub(super) fn unpacking(&mut self, line: &str) {
        let Some((files, bytes)) = line.split_once(' ') else { return };
        let Ok(bytes) = bytes.parse() else { return };
        if self.is_time() {
            self.tell(&format!("unpacked {files} files, {}", megabytes(bytes)));
        }
    }

    /// Something else begins.
    pub(super) fn say(&mut self, text: &str) {
        self.said_at = None;
        self.tell(text);
    }

    /// The last word; ends the terminal's line.
    pub(super) fn done(&mut self, text: &str) {
        notify(&[NotifyState::Status(text)]);
    }

    fn is_time(&self) -> bool {
        self.said_at.is_none_or(|at| at.elapsed() >= STATUS_EVERY)
    }

    fn tell(&mut self, text: &str) {
        self.said_at = Some(Instant::now());
        notify(&[NotifyState::Status(text)]);
        if self.extended_at.is_none_or(|at| at.elapsed() >= EXTEND_EVERY) {
            let micros = u32::try_from(EXTEND.as_micros()).unwrap_or(u32::MAX);
            notify(&[NotifyState::ExtendTimeoutUsec(micros)]);
            self.extended_at = Some(Instant::now());
        }
        if self.terminal {
            // A lost line of progress is no reason to give up.
            let _ = write!(std::io::stderr(), "\r\x1b[K{text}");
        }
    }
}

impl Watch for Report {
    fn begin(&mut self, have: u64) {
        self.begun = Instant::now();
        self.resumed_at = have;
    }

    fn fetched(&mut self, have: u64, total: Option<u64>) {
        if self.is_time() {
            let rate =
                (have - self.resumed_at) as f64 / self.begun.elapsed().as_secs_f64().max(0.001);
            let of = total.map_or_else(String::new, |total| {
                format!(" of {} ({} %)", megabytes(total), have.saturating_mul(100) / total.max(1))
            });
            self.tell(&format!("fetched {}{of}, {}/s", megabytes(have), megabytes(rate as u64)));
        }
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        if self.terminal && self.said_at.is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

/// A lost notification must not end a run: the unit's own timeout stands.
fn notify(states: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("sd_notify: {error}");
    }
}
