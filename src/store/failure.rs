//! The failure record: why the last build of a kernel failed, and when the same inputs may be
//! tried again.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::{Layout, write_atomic};
use crate::exit::Exit;
use crate::host::Release;

/// The record format this program writes.
const VERSION: u32 = 1;

/// `/var/lib/zfs-prefix/failures/<release>.json`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FailureRecord {
    /// Format version.
    pub version: u32,
    /// The kernel the build was for.
    pub kernel_release: Release,
    /// The key that failed; empty when the build failed before its inputs were known.
    pub key: String,
    /// The stage that failed.
    pub stage: String,
    /// The exit status of the builder.
    pub exit: Exit,
    /// The build delayed the boot (`--early`). A late build does not wait for the pause after it.
    #[serde(default)]
    pub early: bool,
    /// The error message.
    pub reason: String,
    /// One line of the reason, for messages with room for one line. Records from before 0.2.0 have
    /// none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<String>,
    /// When, seconds since the epoch.
    pub when: u64,
    /// How often these inputs have failed in a row.
    pub attempts: u32,
    /// The earliest time to try the same inputs again, seconds since the epoch.
    pub next_try: u64,
}

impl FailureRecord {
    /// One line that says why.
    pub fn line(&self) -> &str {
        let last = || self.reason.lines().last().unwrap_or_default().trim();
        self.line.as_deref().unwrap_or_else(last)
    }

    /// The record of a first failure, now. `key` is empty when it is not known yet.
    pub fn new(release: &Release, key: &str, stage: &str, exit: Exit, reason: String) -> Self {
        let now = super::unix_now();
        FailureRecord {
            version: VERSION,
            kernel_release: release.clone(),
            key: key.to_owned(),
            stage: stage.to_owned(),
            exit,
            early: false,
            reason,
            line: None,
            when: now,
            attempts: 1,
            next_try: now,
        }
    }

    /// Counts this failure after `previous` and sets the next try. The pause begins at `first`,
    /// doubles with each failure of the same inputs and ends at `max`. If the inputs are not known
    /// yet, there is no pause: to look at them again costs nothing.
    pub fn following(mut self, previous: Option<&Self>, first: Duration, max: Duration) -> Self {
        let same = previous.filter(|p| p.key == self.key);
        self.attempts = same.map_or(1, |p| p.attempts.saturating_add(1));
        let pause = first.saturating_mul(1 << (self.attempts - 1).min(20)).min(max);
        let pause = if self.key.is_empty() { 0 } else { pause.as_secs() };
        self.next_try = self.when.saturating_add(pause);
        self
    }

    /// Whether a build of `key` at `now` has to wait. A clock that went back does not hold a
    /// build for longer than the pause was.
    pub fn holds(&self, key: &str, now: u64) -> bool {
        !key.is_empty() && self.key == key && now < self.next_try && now >= self.when
    }

    /// The record of `release`, if there is one.
    ///
    /// # Errors
    /// There is one and it cannot be read. Callers report that and continue without it.
    pub fn read(layout: &Layout, release: &Release) -> Result<Option<FailureRecord>> {
        let path = layout.failure(release);
        let bytes = match fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.with_context(|| format!("{}", path.display()))?,
        };
        let record: FailureRecord =
            serde_json::from_slice(&bytes).with_context(|| format!("{}", path.display()))?;
        anyhow::ensure!(
            record.version == VERSION,
            "{}: record format {} is not known",
            path.display(),
            record.version
        );
        Ok(Some(record))
    }

    /// Writes the record to its place.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, layout: &Layout) -> Result<()> {
        let path = layout.failure(&self.kernel_release);
        super::make_dirs(path.parent().context("no directory")?)?;
        write_atomic(&path, &serde_json::to_vec_pretty(self)?)
    }

    /// Removes the record of `release`, if there is one.
    ///
    /// # Errors
    /// It is there and cannot be removed.
    pub fn clear(layout: &Layout, release: &Release) -> Result<()> {
        let path = layout.failure(release);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(e).with_context(|| format!("{}: cannot be removed", path.display()))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fail(previous: Option<&FailureRecord>, key: &str, now: u64) -> FailureRecord {
        let release = "6.1.0".parse().unwrap();
        let reason = "cc1: out of memory".to_owned();
        let mut record = FailureRecord::new(&release, key, "build", Exit::BuildFailed, reason);
        record.when = now;
        record.following(previous, Duration::from_secs(1800), Duration::from_secs(7200))
    }

    #[test]
    fn the_pause_doubles_for_the_same_inputs_up_to_its_bound_and_starts_again_for_others() {
        let mut record = fail(None, "k", 0);
        let mut pauses = vec![record.next_try - record.when];
        for _ in 0..40 {
            record = fail(Some(&record), "k", record.next_try);
            pauses.push(record.next_try - record.when);
        }
        assert_eq!(pauses[..4], [1800, 3600, 7200, 7200]);
        assert_eq!(pauses[40], 7200);
        let other = fail(Some(&record), "other", 5);
        assert_eq!((other.attempts, other.next_try), (1, 1805));
    }

    #[test]
    fn only_the_same_inputs_are_held_and_only_until_the_next_try() {
        let record = fail(None, "k", 1000);
        assert!(record.holds("k", 1000) && record.holds("k", 2799));
        assert!(!record.holds("k", 2800), "the pause is over");
        assert!(!record.holds("other", 1001), "changed inputs");
        assert!(!record.holds("k", 10), "the clock went back");
        assert!(!fail(None, "", 1000).holds("", 1000), "inputs unknown");
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_cleared() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path());
        let record = fail(None, "k", 7);
        assert_eq!(FailureRecord::read(&layout, &record.kernel_release).unwrap(), None);
        record.write(&layout).unwrap();
        let read = FailureRecord::read(&layout, &record.kernel_release).unwrap();
        assert_eq!(read, Some(record.clone()));
        FailureRecord::clear(&layout, &record.kernel_release).unwrap();
        assert_eq!(FailureRecord::read(&layout, &record.kernel_release).unwrap(), None);
        fs::write(layout.failure(&record.kernel_release), "{").unwrap();
        let error = FailureRecord::read(&layout, &record.kernel_release).unwrap_err();
        assert!(format!("{error:#}").contains("failures/6.1.0.json"), "{error:#}");
    }
}
