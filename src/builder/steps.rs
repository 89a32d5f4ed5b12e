//! The steps of a build: commands. Each line of their output goes to the journal at once.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::Result;
use tracing::info;

use super::output::failing_lines;
use super::progress::Progress;
use crate::exit::{Exit, Failure};
use crate::log::id;
use crate::process::{Cancel, Ended, Interrupted, Run, describe, idle_for};

/// A step that neither prints nor computes anything for this long counts as hanging. This is less
/// than the unit's TimeoutStartSec=, so that the hang is recorded as a failure of the inputs.
const STALLED: Duration = Duration::from_secs(9 * 60);

/// Finds the exit status that the last lines of output ask for, and a hint.
pub type Reason = fn(&VecDeque<String>) -> (Exit, &'static str);

/// Runs steps.
pub struct Steps<'a> {
    /// Stop when set.
    pub cancel: &'a Cancel,
    /// Where progress goes.
    pub progress: &'a mut Progress,
}

impl Steps<'_> {
    /// Runs one step. It has to succeed. `reason` finds in the last lines what a failure means.
    ///
    /// # Errors
    /// It failed, was idle for too long, or was stopped ([`Interrupted`]).
    pub fn must(&mut self, run: &Run, reason: Reason) -> Result<()> {
        let ended = self.follow(run)?;
        if ended.status.success() && !ended.stalled {
            Ok(())
        } else {
            Err(failed(run, &ended, reason))
        }
    }

    /// Runs a command. Its output goes to the journal line by line. Returns how it ended, also if
    /// it failed. It is an error only if it was cancelled or never entered the prefix.
    ///
    /// # Errors
    /// It could not be run, or was stopped ([`Interrupted`]).
    pub fn follow(&mut self, run: &Run) -> Result<Ended> {
        info!("running {}", run.shown());
        let progress = &mut *self.progress;
        let run = &run.clone().idle(STALLED);
        let ended = run.lines(self.cancel, |line| {
            progress.line(line);
            info!(message_id = id::BUILD_OUTPUT, "{line}");
        })?;
        if ended.cancelled {
            return Err(Interrupted.into());
        }
        match ended.not_begun() {
            Some(failure) => Err(failure.into()),
            None => Ok(ended),
        }
    }
}

/// The error of a step that failed: the reason, and the lines of its output that show it.
pub fn failed(run: &Run, ended: &Ended, reason: Reason) -> anyhow::Error {
    if ended.stalled {
        let last = ended.tail.back().map_or("", String::as_str);
        let (run, why) = (run.shown(), idle_for(Some(STALLED)));
        let text = format!("{run}: ended: {why}; the last line was: {last}");
        return Failure::new(Exit::BuildFailed, text).into();
    }
    let (exit, hint) = reason(&ended.tail);
    let lines = failing_lines(&ended.tail).join("\n  ");
    let program = run.shown();
    let program = program.split(' ').next().unwrap_or_default();
    Failure::new(
        exit,
        format!("{program}: {}{hint}; the failing lines:\n  {lines}", describe(ended.status)),
    )
    .into()
}
