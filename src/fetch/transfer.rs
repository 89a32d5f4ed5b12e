//! Writes the bytes of an archive to the disk. Their number and the time are limited, because the
//! sender has not proved anything yet.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

/// How long a transfer may be slow before it is given up.
const WINDOW: Duration = Duration::from_secs(5 * 60);
/// Fewer bytes in a second than this, over [`WINDOW`], are too few.
const SLOWEST: u64 = 1024;

/// Why a transfer ended early.
#[derive(Debug)]
pub(super) enum Torn {
    /// Reading failed after so many bytes.
    Read(u64, std::io::Error),
    /// Writing failed.
    Write(std::io::Error),
    /// There are more bytes than the limit.
    TooMuch,
    /// So many bytes are there, and the last ones came slower than [`SLOWEST`].
    TooSlow(u64),
}

/// Copies `from` to its end into `to`, which has `have` bytes already and may have `limit` bytes at
/// most. Returns how many bytes `to` has then.
pub(super) fn transfer(
    mut from: impl Read,
    to: &mut File,
    mut have: u64,
    limit: u64,
    mut told: impl FnMut(u64),
) -> Result<u64, Torn> {
    let mut block = vec![0; 128 * 1024];
    let begun = Instant::now();
    let mut pace = Pace { since: Duration::ZERO, had: have };
    loop {
        match from.read(&mut block) {
            Ok(0) => return Ok(have),
            Ok(n) if have.saturating_add(n as u64) > limit => return Err(Torn::TooMuch),
            Ok(n) => {
                to.write_all(&block[..n]).map_err(Torn::Write)?;
                have += n as u64;
                told(have);
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(Torn::Read(have, e)),
        }
        if pace.is_too_slow(begun.elapsed(), have) {
            return Err(Torn::TooSlow(have));
        }
    }
}

/// The average rate of each [`WINDOW`].
struct Pace {
    since: Duration,
    had: u64,
}

impl Pace {
    /// Whether the window that ends now, if one does, had too few bytes.
    fn is_too_slow(&mut self, now: Duration, have: u64) -> bool {
        let passed = now.saturating_sub(self.since);
        if passed < WINDOW {
            return false;
        }
        let enough = passed.as_secs().saturating_mul(SLOWEST);
        let slow = have.saturating_sub(self.had) < enough;
        (self.since, self.had) = (now, have);
        slow
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_now_and_then_is_too_slow_and_a_slow_line_is_not() {
        for (case, rate, slow) in [("a byte", 1, true), ("2 KiB/s", 2048, false)] {
            let mut pace = Pace { since: Duration::ZERO, had: 7 };
            let verdicts: Vec<bool> = (1..=20)
                .map(|minute| {
                    pace.is_too_slow(Duration::from_secs(minute * 60), 7 + minute * 60 * rate)
                })
                .collect();
            assert_eq!(verdicts[..4], [false; 4], "{case}: not before five minutes");
            assert_eq!(verdicts.contains(&true), slow, "{case}: {verdicts:?}");
        }
        let mut pace = Pace { since: Duration::ZERO, had: 0 };
        assert!(!pace.is_too_slow(WINDOW, 1 << 30));
        assert!(pace.is_too_slow(WINDOW * 2, (1 << 30) + 9), "what came before does not count");
    }

    #[test]
    fn what_goes_on_beyond_the_limit_is_ended_and_what_reaches_it_is_not() {
        for (limit, whole) in [(99_999, false), (100_000, true)] {
            let mut to = tempfile::tempfile().unwrap();
            let got = transfer(std::io::repeat(0).take(100_000), &mut to, 0, limit, |_| {});
            assert_eq!(matches!(got, Ok(100_000)), whole, "{limit}");
            assert_eq!(matches!(got, Err(Torn::TooMuch)), !whole, "{limit}");
            assert!(to.metadata().unwrap().len() <= limit, "{limit}");
        }
    }
}
