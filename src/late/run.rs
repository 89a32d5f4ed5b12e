//! One step after the other, each with its result in the journal and a limit of its own.

use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, Instant};

use tracing::{error, info};

use super::blocked::{self, Blocked};
use super::choice::{in_order, is_wanted, left_alone};
use super::verdict::{Verdict, gone_again, is_only_executed, verdict, without_result};
use crate::host::Host;
use crate::log::id;
use crate::systemd::manager::{Error, Job, JobResult, Manager, Unit};

/// How long to wait for a bus or a manager that is not there.
const RETURN: Duration = Duration::from_secs(60);
/// How often to look for a change that no signal reports.
const LOOK: Duration = Duration::from_millis(500);
/// A program that was executed and has not ended after this time counts as running.
const BREATH: Duration = Duration::from_secs(1);

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

/// The progress of the late import.
pub(super) struct Late<'a> {
    pub(super) host: &'a Host,
    manager: Manager,
    deadline: Instant,
    /// The current stage, for the journal.
    pub(super) stage: &'static str,
    /// Units that have had their turn.
    tried: BTreeSet<String>,
    /// What was started, for the last line.
    pub(super) started: Vec<String>,
    /// What failed and why, for the last line.
    pub(super) failures: Vec<Failed>,
    /// Why nothing more is tried.
    pub(super) stopped: Option<String>,
    /// Units that must not be started. Units that need them must not be started either.
    pub(super) blocked: Vec<Blocked>,
    /// How often another connection was made. No signal reports the jobs of an earlier one.
    connections: u32,
}

/// Something that failed, for the last line.
pub(super) struct Failed {
    /// A unit, or what was tried.
    pub(super) what: String,
    pub(super) why: String,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.what, self.why)
    }
}

/// A job that has begun, and that nobody has waited for yet.
pub(super) struct Pending {
    unit: String,
    job: Result<Job, Error>,
    connection: u32,
    begun: Instant,
    restart: bool,
}

impl Pending {
    pub(super) fn unit(&self) -> &str {
        &self.unit
    }
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
            blocked: Vec::new(),
            connections: 0,
        })
    }

    /// What is left of `limit`, or of the whole time if that is less.
    pub(super) fn left(&self, limit: Duration) -> Duration {
        limit.min(self.deadline.saturating_duration_since(Instant::now()))
    }

    /// What systemd knows of `unit`.
    pub(super) fn ask(&mut self, unit: &str) -> Result<Unit, Error> {
        self.call(|manager| manager.unit(unit))
    }

    /// Calls the manager. Calls once more if the manager or the bus has gone away since the last
    /// call, or if the manager did not answer. A second start of a unit that is already starting
    /// changes nothing.
    pub(super) fn call<R>(
        &mut self,
        mut call: impl FnMut(&mut Manager) -> Result<R, Error>,
    ) -> Result<R, Error> {
        if !self.manager.is_over() {
            match call(&mut self.manager) {
                Err(_) if self.manager.is_over() => {}
                Err(Error::NoAnswer(_)) => return call(&mut self.manager),
                other => return other,
            }
        }
        let deadline = Instant::now() + self.left(RETURN);
        loop {
            match Manager::connect(None) {
                Ok(manager) => {
                    self.manager = manager;
                    self.connections += 1;
                    return call(&mut self.manager);
                }
                Err(e) if Instant::now() >= deadline => return Err(e),
                Err(_) => std::thread::sleep(LOOK),
            }
        }
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
        self.failures.push(Failed { what: what.to_owned(), why: why.to_owned() });
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

    /// Whether a step may still be tried. If not, reports it.
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

    /// Starts `unit` once, if the boot would have started it and it does not run.
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

    /// Starts `unit`, whether the boot would have or not. `anew`: restarts it if it is active.
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

    /// `unit`, if this program is to start it; otherwise reports why not.
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

    /// What `unit` needs and must not be started, if there is something.
    pub(super) fn needs_blocked(&mut self, unit: &Unit) -> Option<Blocked> {
        let blocked = self.blocked.clone();
        blocked::needed(unit, &blocked, |name| self.ask(name)).cloned()
    }

    /// Starts or restarts, waits, and says how it ended.
    pub(super) fn job(&mut self, state: &Unit, limit: Duration, restart: bool) -> Step {
        let deadline = Instant::now() + self.left(limit);
        match self.begin(state, restart) {
            Ok(pending) => match self.ended(&pending, deadline) {
                Err(Error::NotInTime(_)) => self.not_in_time(&pending),
                result => self.judge(&pending, result),
            },
            Err(step) => step,
        }
    }

    /// Begins to start or restart it, if nothing forbids that.
    fn begin(&mut self, state: &Unit, restart: bool) -> Result<Pending, Step> {
        let unit = state.name.clone();
        if !self.may_go_on(&unit) {
            return Err(Step::Failed);
        }
        if let Some(blocked) = self.needs_blocked(state) {
            let done = if restart { "restarted" } else { "started" };
            return Err(self.failed(&unit, &format!("not {done}: {}", blocked.why)));
        }
        let job = self.call(|manager| manager.begin(&unit, restart));
        let connection = self.connections;
        Ok(Pending { unit, job, connection, begun: Instant::now(), restart })
    }

    /// Begins to start all of `units` together that the boot would have started and that do not
    /// run.
    pub(super) fn begin_all(&mut self, units: &[String]) -> Vec<Pending> {
        let mut pending = Vec::new();
        for unit in units {
            if !self.tried.insert(unit.clone()) {
                continue;
            }
            match self.look_at(unit) {
                Ok(Some(state)) if state.active == "active" => self.say(unit, "is active already"),
                Ok(Some(state)) => pending.extend(self.begin(&state, false).ok()),
                _ => {}
            }
        }
        pending
    }

    /// Waits for `jobs`, for `limit` in all. Returns those that are not done then.
    pub(super) fn wait(&mut self, jobs: Vec<Pending>, limit: Duration) -> Vec<Pending> {
        let deadline = Instant::now() + self.left(limit);
        let mut left = Vec::new();
        for pending in jobs {
            match self.ended(&pending, deadline) {
                Err(Error::NotInTime(_)) => left.push(pending),
                result => drop(self.judge(&pending, result)),
            }
        }
        left
    }

    /// What became of a job. Perhaps no signal reports it any more: systemd was executed anew, the
    /// bus restarted, or a reload took long. The job is not lost then: this looks at its unit until
    /// that has no job.
    fn ended(&mut self, pending: &Pending, deadline: Instant) -> Result<Verdict, Error> {
        let left = || deadline.saturating_duration_since(Instant::now());
        let told: Result<JobResult, Error> = match &pending.job {
            Ok(_) if pending.connection != self.connections => Err(Error::Closed),
            Ok(job) => self.manager.ended(job, left()),
            Err(e) => Err(e.clone()),
        };
        match told {
            Ok(result) => self.ask(&pending.unit).map(|after| verdict(&result, &after)),
            Err(Error::Reexecuted | Error::Closed | Error::NoAnswer(_) | Error::NoBus(_)) => loop {
                let asked = self.ask(&pending.unit);
                match asked {
                    Ok(after) if after.is_settled() => return Ok(without_result(&after)),
                    _ if left().is_zero() => return Err(Error::NotInTime(pending.begun.elapsed())),
                    _ => std::thread::sleep(LOOK.min(left())),
                }
            },
            Err(e) => Err(e),
        }
    }

    /// Says how it ended.
    fn judge(&mut self, pending: &Pending, ended: Result<Verdict, Error>) -> Step {
        let unit = pending.unit.as_str();
        let ended = match ended {
            Ok(Verdict::Started) => self.still_there(unit).map(|gone| match gone {
                Some(why) => Verdict::Failed(why),
                None => Verdict::Started,
            }),
            other => other,
        };
        match ended {
            Ok(Verdict::Started) => {
                let what = if pending.restart { "restarted" } else { "started" };
                let took = pending.begun.elapsed().as_secs_f64();
                self.say(unit, &format!("{what} in {took:.1} s"));
                self.started.push(unit.to_owned());
                Step::Done
            }
            Ok(Verdict::Skipped(unmet)) => {
                self.say(unit, &format!("skipped, its condition is not met: {unmet}"));
                Step::Not
            }
            Ok(Verdict::Failed(why)) => self.failed(unit, &why),
            Err(e) => self.failed(unit, &e.to_string()),
        }
    }

    /// Why a service does not run, if it is only known that it was executed. `None`: it runs, or
    /// more is known.
    fn still_there(&mut self, unit: &str) -> Result<Option<String>, Error> {
        if !unit.ends_with(".service") || !is_only_executed(&self.ask(unit)?) {
            return Ok(None);
        }
        std::thread::sleep(BREATH);
        Ok(gone_again(&self.ask(unit)?))
    }

    /// Reports a job that goes on after its limit. If it is an import, nothing more may be tried.
    pub(super) fn not_in_time(&mut self, pending: &Pending) -> Step {
        let unit = pending.unit.as_str();
        if self.stage == "import" {
            self.stopped = Some(format!("{unit} is not done"));
        }
        self.failed(unit, &Error::NotInTime(pending.begun.elapsed()).to_string())
    }

    /// Starts what the target `target` wants and has not had its turn, then the target itself if it
    /// is not active. An active target is not started again: that would start once more what has
    /// just failed.
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

    /// Starts those of `units` that do not run and have not had their turn, in their order. A unit
    /// that is not installed, or is active, is not worth a line.
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

    /// Forgets that `unit` failed: it is tried again.
    pub(super) fn forget(&mut self, unit: &str) {
        self.failures.retain(|failed| failed.what != unit);
    }

    /// Keeps [`Late::complete`] from starting `unit`.
    pub(super) fn taken(&mut self, unit: &str) {
        self.tried.insert(unit.to_owned());
    }
}
