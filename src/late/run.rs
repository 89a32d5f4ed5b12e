//! One step after the other, each with its result in the journal and a limit of its own.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tracing::{error, info};

use super::choice::{in_order, is_wanted, left_alone};
use crate::host::Host;
use crate::log::id;
use crate::manager::{Error, JobResult, Manager, Unit};

/// How a step ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It was started, or done.
    Done,
    /// It was active before.
    Already,
    /// The boot would not have started it, or its conditions were not met.
    Not,
    /// It failed, was not done in time, or not tried.
    Failed,
}

/// The late way as far as it has come.
pub(super) struct Late<'a> {
    pub(super) host: &'a Host,
    manager: Manager,
    deadline: Instant,
    /// The part of the way that is gone now, for the journal.
    pub(super) stage: &'static str,
    /// Units that have had their turn.
    tried: BTreeSet<String>,
    /// What was started, for the last line.
    pub(super) started: Vec<String>,
    /// What failed and why, for the last line.
    pub(super) failures: Vec<String>,
    /// Why nothing more is tried.
    pub(super) stopped: Option<String>,
    /// Starting a unit that wants this one would do what must not be done.
    pub(super) kept_off: Option<&'static str>,
}

impl<'a> Late<'a> {
    pub(super) fn new(host: &'a Host, limit: Duration) -> Result<Late<'a>, Error> {
        Ok(Late {
            host,
            manager: Manager::connect(None)?,
            deadline: Instant::now() + limit,
            stage: "load",
            tried: BTreeSet::new(),
            started: Vec::new(),
            failures: Vec::new(),
            stopped: None,
            kept_off: None,
        })
    }

    /// What is left of `limit`, or of all the time there is.
    pub(super) fn left(&self, limit: Duration) -> Duration {
        limit.min(self.deadline.saturating_duration_since(Instant::now()))
    }

    /// What systemd knows of `unit`.
    pub(super) fn ask(&mut self, unit: &str) -> Result<Unit, Error> {
        if self.manager.is_over() {
            self.manager = Manager::connect(None)?;
        }
        self.manager.unit(unit)
    }

    /// Says that `what` failed, and remembers it for the end.
    pub(super) fn failed(&mut self, what: &str, why: &str) -> Step {
        error!(
            message_id = id::LATE_STEP_FAILED,
            zfs_prefix_stage = self.stage,
            zfs_prefix_kernel = self.host.kernel_release.as_str(),
            zfs_prefix_unit = what,
            "{what}: {why}"
        );
        self.failures.push(format!("{what} ({why})"));
        Step::Failed
    }

    pub(super) fn say(&self, what: &str, result: &str) {
        info!(
            message_id = id::LATE_STEP,
            zfs_prefix_stage = self.stage,
            zfs_prefix_kernel = self.host.kernel_release.as_str(),
            zfs_prefix_unit = what,
            "{what}: {result}"
        );
    }

    /// Whether a step may still be tried; if not, it is named.
    pub(super) fn may_go_on(&mut self, what: &str) -> bool {
        let over = self.left(Duration::MAX).is_zero();
        let why = match (&self.stopped, over) {
            (Some(why), _) => format!("not tried: {why}"),
            (None, true) => "not tried: no time was left".to_owned(),
            (None, false) => return true,
        };
        self.failed(what, &why);
        false
    }

    /// Starts `unit` if the boot would have started it and it does not run; once.
    pub(super) fn bring_up(&mut self, unit: &str, limit: Duration) -> Step {
        if !self.tried.insert(unit.to_owned()) {
            return Step::Already;
        }
        match self.look_at(unit) {
            Ok(Some(state)) if state.active == "active" => {
                self.say(unit, "is active already");
                Step::Already
            }
            Ok(Some(state)) => self.job(&state, limit, false),
            Ok(None) => Step::Not,
            Err(step) => step,
        }
    }

    /// Starts `unit` whether the boot would have or not; `anew`: one that is active is restarted.
    pub(super) fn bring_up_always(&mut self, unit: &str, anew: bool, limit: Duration) -> Step {
        self.tried.insert(unit.to_owned());
        match self.ask(unit) {
            Ok(state) if state.active == "active" && !anew => {
                self.say(unit, "is active already");
                Step::Already
            }
            Ok(state) => self.job(&state, limit, state.active == "active"),
            Err(e) => self.failed(unit, &e.to_string()),
        }
    }

    /// Restarts `unit` if it runs, starts it if the boot would have started it.
    pub(super) fn bring_up_anew(&mut self, unit: &str, limit: Duration) -> Step {
        self.tried.insert(unit.to_owned());
        match self.look_at(unit) {
            Ok(Some(state)) => self.job(&state, limit, state.is_up()),
            Ok(None) => Step::Not,
            Err(step) => step,
        }
    }

    /// `unit`, if it is for us to start; said otherwise.
    pub(super) fn look_at(&mut self, unit: &str) -> Result<Option<Unit>, Step> {
        let looked = self.ask(unit).and_then(|state| {
            let wanted = state.is_up() || is_wanted(&state, |name| self.ask(name))?;
            Ok((left_alone(&state, wanted), state))
        });
        match looked {
            Err(e) => Err(self.failed(unit, &e.to_string())),
            Ok((Some(why), _)) => {
                self.say(unit, &format!("{why}, not started"));
                Ok(None)
            }
            Ok((None, state)) if state.load != "loaded" => {
                let why = format!("its file cannot be used ({})", state.load);
                Err(self.failed(unit, &format!("{why}: systemctl status {unit}")))
            }
            Ok((None, state)) => Ok(Some(state)),
        }
    }

    /// Starts or restarts, waits, and says how it ended.
    fn job(&mut self, state: &Unit, limit: Duration, restart: bool) -> Step {
        let unit = state.name.as_str();
        if !self.may_go_on(unit) {
            return Step::Failed;
        }
        if let Some(off) = self.kept_off.filter(|off| state.wants.iter().any(|w| w == off)) {
            return self.failed(unit, &format!("not started: it would start {off}"));
        }
        let limit = self.left(limit);
        let begun = Instant::now();
        let ended = match restart {
            true => self.manager.restart(unit, limit),
            false => self.manager.start(unit, limit),
        };
        let after = match ended {
            Ok(result) => self.ask(unit).map(|after| verdict(&result, &after)),
            Err(e) => Err(e),
        };
        match after {
            Ok(Verdict::Started) => {
                let what = if restart { "restarted" } else { "started" };
                self.say(unit, &format!("{what} in {:.1} s", begun.elapsed().as_secs_f64()));
                self.started.push(unit.to_owned());
                Step::Done
            }
            Ok(Verdict::Skipped(unmet)) => {
                self.say(unit, &format!("skipped, its condition is not met: {unmet}"));
                Step::Not
            }
            Ok(Verdict::Failed(why)) => self.failed(unit, &why),
            Err(e) => {
                if matches!(e, Error::NotInTime(_)) && self.stage == "import" {
                    self.stopped = Some(format!("{unit} is not done"));
                }
                self.failed(unit, &e.to_string())
            }
        }
    }

    /// What the target `target` wants and has not had its turn; then the target itself, if it is not
    /// active. An active one is not started again: that would start what has just failed once more.
    pub(super) fn complete(&mut self, target: &str, limit: Duration) {
        if !self.tried.insert(target.to_owned()) {
            return;
        }
        let Ok(Some(state)) = self.look_at(target) else { return };
        self.bring_up_all(&state.wants, limit);
        match state.active.as_str() {
            "active" => self.say(target, "is active already"),
            _ => {
                self.job(&state, limit, false);
            }
        }
    }

    /// Starts those of `units` that do not run and have not had their turn, in their order. What is
    /// not installed, or is there, is not worth a line.
    pub(super) fn bring_up_all(&mut self, units: &[String], limit: Duration) {
        let mut idle = Vec::new();
        for name in units {
            if self.tried.contains(name) {
                continue;
            }
            match self.ask(name) {
                Ok(unit) if unit.load == "not-found" || unit.active == "active" => {}
                Ok(unit) => idle.push(unit),
                Err(e) => {
                    self.failed(name, &e.to_string());
                }
            }
        }
        for unit in in_order(idle) {
            self.bring_up(&unit.name, limit);
        }
    }

    /// `unit` is not to be started by [`Late::complete`].
    pub(super) fn taken(&mut self, unit: &str) {
        self.tried.insert(unit.to_owned());
    }
}

/// What came of a job.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Started,
    Skipped(String),
    Failed(String),
}

/// `after`: the unit when the job was over. Conditions are not part of a job's result.
fn verdict(result: &JobResult, after: &Unit) -> Verdict {
    let journal = format!("journalctl -eu '{}'", after.name);
    match result {
        JobResult::Skipped => Verdict::Skipped("see ".to_owned() + &journal),
        JobResult::Done if after.result == "exec-condition" => {
            Verdict::Skipped(format!("ExecCondition=, {journal}"))
        }
        JobResult::Done if !after.condition && !after.is_up() => {
            Verdict::Skipped(after.unmet.join(", "))
        }
        JobResult::Done if after.active == "failed" => Verdict::Failed(reason(after)),
        JobResult::Done => Verdict::Started,
        JobResult::Failed => Verdict::Failed(reason(after)),
        JobResult::Dependency => Verdict::Failed(format!(
            "something that it requires failed: systemctl list-dependencies '{}'",
            after.name
        )),
        JobResult::Assert => Verdict::Failed(format!("an assertion is not met; {journal}")),
        JobResult::Timeout => Verdict::Failed(format!("its job timed out; {journal}")),
        JobResult::Canceled => {
            Verdict::Failed(format!("its job was cancelled or replaced; {journal}"))
        }
        JobResult::Other(word) => {
            Verdict::Failed(format!("its job ended with {word:?}; {journal}"))
        }
    }
}

fn reason(unit: &Unit) -> String {
    let status = match unit.result.as_str() {
        "exit-code" => format!("exit status {}", unit.status),
        "" => "no result".to_owned(),
        other => other.to_owned(),
    };
    format!("failed, {status}; journalctl -eu '{}'", unit.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_judged_by_its_result_and_by_what_became_of_the_unit() {
        let unit = |active: &str, result: &str, condition: bool| Unit {
            name: "x.service".into(),
            active: active.into(),
            result: result.into(),
            condition,
            status: 20,
            unmet: vec!["ConditionPathExists=!/x".into()],
            ..Unit::default()
        };
        for (result, unit, want) in [
            (JobResult::Done, unit("active", "success", true), "started"),
            // A oneshot without RemainAfterExit=.
            (JobResult::Done, unit("inactive", "success", true), "started"),
            (JobResult::Done, unit("inactive", "success", false), "ConditionPathExists=!/x"),
            (JobResult::Done, unit("inactive", "exec-condition", true), "ExecCondition="),
            (JobResult::Skipped, unit("inactive", "success", true), "journalctl"),
            (JobResult::Done, unit("failed", "exit-code", true), "exit status 20"),
            (JobResult::Failed, unit("failed", "exit-code", true), "exit status 20"),
            (JobResult::Failed, unit("failed", "timeout", true), "failed, timeout"),
            (JobResult::Dependency, unit("inactive", "success", true), "it requires failed"),
            (JobResult::Timeout, unit("inactive", "success", true), "timed out"),
            (JobResult::Canceled, unit("inactive", "success", true), "cancelled"),
            (JobResult::Other("once".into()), unit("active", "success", true), "\"once\""),
        ] {
            let said = match verdict(&result, &unit) {
                Verdict::Started => "started".to_owned(),
                Verdict::Skipped(why) | Verdict::Failed(why) => why,
            };
            assert!(said.contains(want), "{result:?} {unit:?}: {said}");
        }
    }
}
