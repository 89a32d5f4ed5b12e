//! systemd's manager, over D-Bus: starts units one by one, and waits for each job.
//!
//! Source: org.freedesktop.systemd1(5), D-Bus specification ("Message Bus Messages"). The signal
//! JobRemoved() reports the result of a StartUnit() job. This module asks for the signal before it
//! starts anything, so it misses none. A bus that closes, or a manager that is replaced
//! (daemon-reexec), is an error with a name. No wait is without an end.

mod error;
mod listen;
mod unit;

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use zbus::blocking::Connection;
use zbus::blocking::connection::Builder;
use zbus::zvariant::{DynamicType, OwnedObjectPath};

pub use error::Error;
use listen::Event;
pub use unit::Unit;

pub(crate) const SYSTEMD: &str = "org.freedesktop.systemd1";
const PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";

/// How long one call may take: PID 1 answers nothing while it reloads.
const CALL: Duration = Duration::from_secs(60);
/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(30);

/// How a job ended: the last argument of JobRemoved().
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobResult {
    /// Done; also where a condition of the unit was not met.
    Done,
    /// Another job took its place, or somebody cancelled it.
    Canceled,
    /// It took longer than the job may (JobTimeoutSec=).
    Timeout,
    /// The unit failed.
    Failed,
    /// A unit that it needs failed.
    Dependency,
    /// An assertion of the unit (Assert…=) is not met: it was not started.
    Assert,
    /// It did not apply to the unit's state.
    Skipped,
    /// A word that this program does not know: no success.
    Other(String),
}

impl JobResult {
    fn read(word: &str) -> JobResult {
        match word {
            "done" => JobResult::Done,
            "canceled" => JobResult::Canceled,
            "timeout" => JobResult::Timeout,
            "failed" => JobResult::Failed,
            "dependency" => JobResult::Dependency,
            "assert" => JobResult::Assert,
            "skipped" => JobResult::Skipped,
            other => JobResult::Other(other.to_owned()),
        }
    }
}

/// A job that was begun, for [`Manager::ended`].
#[derive(Clone, Debug)]
pub struct Job(OwnedObjectPath);

/// A connection to the manager, subscribed to its signals.
pub struct Manager {
    connection: Connection,
    events: Receiver<Event>,
    /// Jobs that somebody may still wait for; with their result once they have one.
    jobs: HashMap<OwnedObjectPath, Option<JobResult>>,
    /// What ended the connection. Every later call gets the same error.
    over: Option<Error>,
}

impl Manager {
    /// The manager of this machine, on the bus at `address` (none: the system bus).
    ///
    /// # Errors
    /// No bus, no manager on it, or no answer in time.
    pub fn connect(address: Option<&str>) -> Result<Manager, Error> {
        let address = address.map(str::to_owned);
        let (sender, made) = std::sync::mpsc::channel();
        // The handshake has no timeout.
        std::thread::spawn(move || sender.send(connection(address.as_deref())));
        let connection = match made.recv_timeout(CONNECT) {
            Ok(connection) => connection.map_err(|e| Error::NoBus(e.to_string()))?,
            Err(_) => return Err(Error::NoBus(format!("no answer in {} s", CONNECT.as_secs()))),
        };
        let events = listen::listen(&connection)?;
        let mut manager = Manager { connection, events, jobs: HashMap::new(), over: None };
        manager.call::<(), ()>("Subscribe", &())?;
        Ok(manager)
    }

    /// Starts `unit` and waits for its job, for at most `limit`.
    ///
    /// # Errors
    /// The manager refused the job, or was lost; [`Error::NotInTime`]: the job goes on.
    pub fn start(&mut self, unit: &str, limit: Duration) -> Result<JobResult, Error> {
        let job = self.begin(unit, false)?;
        self.ended(&job, limit)
    }

    /// Restarts `unit`, or starts it where it does not run, and waits as [`Manager::start`] does.
    ///
    /// # Errors
    /// As [`Manager::start`].
    pub fn restart(&mut self, unit: &str, limit: Duration) -> Result<JobResult, Error> {
        let job = self.begin(unit, true)?;
        self.ended(&job, limit)
    }

    /// Begins to start or restart `unit`, without waiting. The caller has to wait for each job that
    /// it begins.
    ///
    /// # Errors
    /// The manager refused the job, or was lost.
    pub fn begin(&mut self, unit: &str, restart: bool) -> Result<Job, Error> {
        self.hold(unit)?;
        // A manager that is lost already would begin nothing.
        while let Ok(event) = self.events.try_recv() {
            self.note(event)?;
        }
        let method = if restart { "RestartUnit" } else { "StartUnit" };
        let path: OwnedObjectPath = self.call(method, &(unit, "replace"))?;
        self.jobs.insert(path.clone(), None);
        Ok(Job(path))
    }

    /// Waits for a job that was begun, for at most `limit`.
    ///
    /// # Errors
    /// The manager was lost; [`Error::NotInTime`]: the job goes on, and can be waited for again.
    pub fn ended(&mut self, job: &Job, limit: Duration) -> Result<JobResult, Error> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(result) = self.jobs.get(&job.0).and_then(Clone::clone) {
                return Ok(result);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(event) => self.note(event)?,
                Err(RecvTimeoutError::Timeout) => return Err(Error::NotInTime(limit)),
                Err(RecvTimeoutError::Disconnected) => return Err(self.lost(Error::Closed)),
            }
        }
    }

    fn note(&mut self, event: Event) -> Result<(), Error> {
        match event {
            Event::Over(error) => Err(self.lost(error)),
            Event::Removed { job, result } => {
                // Nobody waits here for the jobs of others.
                if let Some(noted) = self.jobs.get_mut(&job) {
                    *noted = Some(JobResult::read(&result));
                }
                Ok(())
            }
        }
    }

    /// Has the manager read all unit files again (`systemctl daemon-reload`).
    ///
    /// # Errors
    /// It refused, did not do it in time, or was lost.
    pub fn reload(&mut self) -> Result<(), Error> {
        self.call("Reload", &())
    }

    /// The names of all mount units that are not active, loaded or not.
    ///
    /// # Errors
    /// The manager was lost.
    pub fn idle_mounts(&mut self) -> Result<Vec<String>, Error> {
        let mounts = (Vec::<String>::new(), vec!["*.mount"]);
        let loaded: Vec<ListedUnit> = self.call("ListUnitsByPatterns", &mounts)?;
        let files: Vec<(String, String)> = self.call("ListUnitFilesByPatterns", &mounts)?;
        let mut active: HashMap<String, bool> = HashMap::new();
        for (path, _) in files {
            let name = path.rsplit('/').next().unwrap_or_default();
            // A template is no unit.
            if !name.contains("@.") {
                active.insert(name.to_owned(), false);
            }
        }
        for unit in loaded {
            active.insert(unit.0, unit.3 == "active");
        }
        let mut idle: Vec<String> =
            active.into_iter().filter_map(|(name, active)| (!active).then_some(name)).collect();
        idle.sort();
        Ok(idle)
    }

    /// What the manager knows of `unit`. The manager loads it for that.
    ///
    /// # Errors
    /// It is no name of a unit, or the manager was lost.
    pub fn unit(&mut self, unit: &str) -> Result<Unit, Error> {
        let path: OwnedObjectPath = self.call("LoadUnit", &(unit,))?;
        unit::read(self, unit, &path)
    }

    /// Has the manager keep `unit` as long as this connection exists. Otherwise it forgets what
    /// became of a unit that nothing names, once that is inactive again.
    fn hold(&mut self, unit: &str) -> Result<(), Error> {
        let path: OwnedObjectPath = self.call("LoadUnit", &(unit,))?;
        match self.call_on::<(), ()>(&path, unit::INTERFACE, "Ref", &()) {
            // The unit cannot be loaded. Its start says why.
            Err(Error::Refused { .. }) => Ok(()),
            other => other,
        }
    }

    fn call<B, R>(&mut self, method: &str, body: &B) -> Result<R, Error>
    where
        B: serde::Serialize + DynamicType,
        R: for<'d> zbus::zvariant::DynamicDeserialize<'d>,
    {
        self.call_on(PATH, MANAGER, method, body)
    }

    /// A call to an object of the manager.
    fn call_on<B, R>(
        &mut self,
        path: &str,
        interface: &str,
        method: &str,
        body: &B,
    ) -> Result<R, Error>
    where
        B: serde::Serialize + DynamicType,
        R: for<'d> zbus::zvariant::DynamicDeserialize<'d>,
    {
        if let Some(error) = &self.over {
            return Err(error.clone());
        }
        let called =
            self.connection.call_method(Some(SYSTEMD), path, Some(interface), method, body);
        let read = called.and_then(|reply| reply.body().deserialize());
        read.map_err(|e| match Error::of(&e, method) {
            lost @ (Error::Closed | Error::Reexecuted) => self.lost(lost),
            error => error,
        })
    }

    fn lost(&mut self, error: Error) -> Error {
        self.over.get_or_insert(error).clone()
    }

    /// Whether the manager was lost. Another connection may find one again.
    pub fn is_over(&self) -> bool {
        self.over.is_some()
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        // Ends the threads that listen on it. Whether the bus hears of it makes no difference.
        let _ = self.connection.clone().close();
    }
}

/// Name, description, LoadState, ActiveState, SubState, what it follows, its object; id, type and
/// object of its job.
type ListedUnit =
    (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);

fn connection(address: Option<&str>) -> zbus::Result<Connection> {
    let builder = match address {
        Some(address) => Builder::address(address)?,
        None => Builder::system()?,
    };
    builder.method_timeout(CALL).build()
}
