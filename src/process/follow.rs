//! Following a child: its output line by line, its end, and the end of all it started.

use std::collections::VecDeque;
use std::io::Read;
use std::os::fd::AsFd;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout};

use super::cpu::{Watch, Whose};
use super::descendants::{self, GRACE};
use super::{Beyond, Cancel, Ended};

/// How many of the last lines of output are kept for the error message.
const TAIL: usize = 400;

/// The limits of a child. A child that exceeds one is ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Time without a sign of life: neither output, nor processor time that it or what it started
    /// used.
    pub(super) idle: Option<Duration>,
    /// Time without output.
    pub(super) silence: Option<Duration>,
    /// Time since its start.
    pub(super) total: Option<Duration>,
    /// Bytes of output.
    pub(super) output: Option<usize>,
}

/// How often a silent child is looked at: so many times in the time that it may be idle.
const LOOKS: u32 = 10;
/// And at least this often.
const LOOK: Duration = Duration::from_secs(10);

/// The processor time of a silent child and of what it started.
struct Pulse {
    /// From the first look on.
    watch: Option<Watch>,
    idle: Duration,
    /// When it was seen last.
    felt: Instant,
    looked: Instant,
}

impl Pulse {
    fn new(idle: Duration) -> Pulse {
        let now = Instant::now();
        Pulse { watch: None, idle, felt: now, looked: now }
    }

    /// Whether there was no pulse for too long, and no output since `heard`.
    fn is_lost(&mut self, heard: Instant) -> bool {
        let idle = self.idle;
        let lost = |felt: Instant| heard.max(felt).elapsed() > idle;
        if lost(self.felt) || heard.max(self.looked).elapsed() >= (idle / LOOKS).min(LOOK) {
            self.looked = Instant::now();
            let watch = self.watch.get_or_insert_with(|| Watch::new(idle, Whose::Started));
            if watch.progressed() {
                self.felt = self.looked;
            }
        }
        lost(self.felt)
    }
}

/// The output of one child.
pub(super) struct Reading {
    pipe: std::io::PipeReader,
    partial: Vec<u8>,
    tail: VecDeque<String>,
    heard: Instant,
    pulse: Option<Pulse>,
    begun: Instant,
    bytes: usize,
}

impl Reading {
    /// Reads from `pipe`. Only the child has its writing ends.
    pub(super) fn new(pipe: std::io::PipeReader) -> Reading {
        let now = Instant::now();
        Reading {
            pipe,
            partial: Vec::new(),
            tail: VecDeque::new(),
            heard: now,
            pulse: None,
            begun: now,
            bytes: 0,
        }
    }

    /// Reads until the child has ended and nothing is left to read, or [`Cancel`] is set.
    pub(super) fn follow(
        mut self,
        child: &mut Child,
        cancel: &Cancel,
        limits: Limits,
        sink: &mut impl FnMut(&str),
    ) -> Result<Ended> {
        let mut ended: Option<(ExitStatus, Instant)> = None;
        self.pulse = limits.idle.map(Pulse::new);
        loop {
            let cancelled = cancel.is_set();
            let stalled = self.pulse.as_mut().is_some_and(|pulse| pulse.is_lost(self.heard));
            let beyond = self.beyond(limits);
            if cancelled || stalled || beyond.is_some() {
                descendants::end_descendants(GRACE);
                let status = self.ended(child)?;
                let stalled = stalled && !cancelled;
                return Ok(Ended {
                    status,
                    tail: self.tail,
                    cancelled,
                    stalled,
                    beyond,
                    wrapper: None,
                });
            }
            let open = self.read_some(Duration::from_millis(200), sink)?;
            if ended.is_none() {
                ended =
                    child.try_wait().context("waiting for a child")?.map(|s| (s, Instant::now()));
            }
            match ended {
                // A daemon that a build left behind may keep the pipe open. Do not wait for it.
                Some((status, since)) if !open || since.elapsed() > Duration::from_secs(2) => {
                    self.flush(sink);
                    descendants::end_descendants(Duration::ZERO);
                    // The rest of the output may have come at once, and be too much.
                    let beyond = self.beyond(Limits { total: None, silence: None, ..limits });
                    let (cancelled, stalled) = (false, false);
                    return Ok(Ended {
                        status,
                        tail: self.tail,
                        cancelled,
                        stalled,
                        beyond,
                        wrapper: None,
                    });
                }
                None if !open => std::thread::sleep(Duration::from_millis(20)),
                _ => {}
            }
        }
    }

    fn beyond(&self, limits: Limits) -> Option<Beyond> {
        let late = limits.total.is_some_and(|total| self.begun.elapsed() > total);
        let silent = limits.silence.is_some_and(|silence| self.heard.elapsed() > silence);
        let much = limits.output.is_some_and(|output| self.bytes > output);
        late.then_some(Beyond::Time)
            .or(silent.then_some(Beyond::Silence))
            .or(much.then_some(Beyond::Output))
    }

    /// The status of a child that was told to end. A child in uninterruptible sleep does not end,
    /// and this does not wait for it.
    fn ended(&self, child: &mut Child) -> Result<ExitStatus> {
        for _ in 0..50 {
            if let Some(status) = child.try_wait().context("waiting for a child")? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        anyhow::bail!("process {} cannot be ended: it hangs in the kernel", child.id())
    }

    /// Waits for output and reads what is there; false when every writer is gone.
    fn read_some(&mut self, wait: Duration, sink: &mut impl FnMut(&str)) -> Result<bool> {
        let wait = PollTimeout::try_from(wait).unwrap_or(PollTimeout::ZERO);
        let mut fds = [PollFd::new(self.pipe.as_fd(), PollFlags::POLLIN)];
        match nix::poll::poll(&mut fds, wait) {
            Ok(0) | Err(nix::errno::Errno::EINTR) => return Ok(true),
            Ok(_) => {}
            Err(e) => return Err(e).context("poll"),
        }
        let mut buf = [0; 64 * 1024];
        self.heard = Instant::now();
        let n = match self.pipe.read(&mut buf) {
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => return Ok(true),
            other => other.context("reading a child's output")?,
        };
        self.bytes = self.bytes.saturating_add(n);
        self.partial.extend_from_slice(&buf[..n]);
        while let Some(end) = self.partial.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            self.line(&line[..end], sink);
        }
        // A line that does not end is cut, so that the buffer stays small.
        if self.partial.len() > 64 * 1024 {
            self.flush(sink);
        }
        Ok(n > 0)
    }

    fn flush(&mut self, sink: &mut impl FnMut(&str)) {
        if !self.partial.is_empty() {
            let line = std::mem::take(&mut self.partial);
            self.line(&line, sink);
        }
    }

    fn line(&mut self, bytes: &[u8], sink: &mut impl FnMut(&str)) {
        // Replace control characters: the line may reach root's terminal.
        let control = |c: char| c.is_control() && c != '\t';
        let text = String::from_utf8_lossy(bytes).trim_end().replace(control, "?");
        sink(&text);
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(text);
    }
}
