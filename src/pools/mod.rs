//! The pools that this machine has to have: their names, their states, and the reason where one is
//! not sound. Nothing here uses force. Where an operator has to decide, the report names the
//! command.

pub mod absent;
mod ask;
mod cache_file;
mod expected;
mod hang;
mod import;
mod keys;
pub mod memory;
pub(crate) mod nvlist;
mod reason;
pub(crate) mod text;

use std::fmt;

use serde::Serialize;

use crate::config::Settings;
use crate::host::Host;
use crate::mountpoints::IMPORTED;
use ask::{Listed, Programs};
pub use cache_file::CacheFile;
pub use expected::{By, Expected};
pub use import::{Imported, by_name};
pub use keys::Locked;
pub use nvlist::{Malformed, pool_names};
use reason::Reason;

/// The state of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Imported, whole, and writable.
    Online,
    /// Works, with devices missing or faulted.
    Degraded,
    /// Imported and of no use: FAULTED or UNAVAIL.
    Faulted,
    /// I/O is stopped, until devices are back.
    Suspended,
    /// Imported with `readonly=on`.
    ReadOnly,
    /// Not imported.
    Absent,
    /// The check could not find it out.
    Unknown,
}

/// One pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Who expects it; null: nobody, it is only imported.
    pub expected: Option<By>,
    /// Its state.
    pub state: State,
    /// The health that zpool(8) prints; null: not imported, or not known.
    pub health: Option<String>,
    /// Why it is not online and writable.
    pub reason: Option<String>,
    /// What an operator can do about it.
    pub what_to_do: Option<String>,
    /// Encryption roots whose key is not loaded; null: it is not known which.
    pub locked: Option<Vec<Locked>>,
}

/// All pools that are expected or imported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// First those that are expected.
    pub pools: Vec<Pool>,
    /// The state of /etc/zfs/zpool.cache.
    pub cache_file: CacheFile,
    /// Why the expected pools are not known, and what to do; null: they are known.
    pub expected_unknown: Option<String>,
    /// Why the imported pools are not known, and what to do; null: they are known.
    pub imported_unknown: Option<String>,
}

impl Pool {
    fn new(name: &str, expected: Option<By>, state: State) -> Pool {
        Pool {
            name: name.to_owned(),
            expected,
            state,
            health: None,
            reason: None,
            what_to_do: None,
            locked: None,
        }
    }

    fn because(mut self, reason: Reason) -> Pool {
        (self.reason, self.what_to_do) = (Some(reason.why), Some(reason.what_to_do));
        self
    }

    /// Whether it is online and writable, and all keys that the boot needs are known to be loaded.
    pub fn sound(&self) -> bool {
        let unlocked = |locked: &Vec<Locked>| !locked.iter().any(Locked::matters);
        self.state == State::Online && self.locked.as_ref().is_some_and(unlocked)
    }

    /// The state in one word: that of zpool(8) where it has one.
    pub fn word(&self) -> &str {
        match self.state {
            State::Absent => "ABSENT",
            State::Unknown => "UNKNOWN",
            State::ReadOnly => "READ-ONLY",
            _ => self.health.as_deref().unwrap_or("UNKNOWN"),
        }
    }
}

/// The name and the state on one line; the reason and what to do on further lines.
impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.word())?;
        if self.expected.is_none() {
            f.write_str(" (not expected)")?;
        }
        if let Some(reason) = &self.reason {
            write!(f, "\n{reason}")?;
        }
        match &self.what_to_do {
            Some(what) => write!(f, "\nto do: {what}"),
            None => Ok(()),
        }
    }
}

impl Report {
    /// Whether the expected pools are known, and each of them is sound. A zpool that does not
    /// answer is not sound, even if nobody expects a pool: a pool hangs, or the installation is
    /// broken.
    pub fn sound(&self) -> bool {
        let known = self.expected_unknown.is_none() && self.imported_unknown.is_none();
        known && self.pools.iter().filter(|pool| pool.expected.is_some()).all(Pool::sound)
    }
}

/// Looks at the machine. Takes three minutes at most, whatever hangs.
pub fn look(host: &Host, settings: &Settings) -> Report {
    let expected = Expected::of(host, settings);
    let all = |state, reason: Reason| {
        let pool = |(name, by): &(String, By)| Pool::new(name, Some(*by), state);
        expected.pools.iter().map(|e| pool(e).because(reason.clone())).collect()
    };
    let answer = || Programs::of(host).and_then(|mut p| Ok((p.list()?, p)));
    let (pools, imported_unknown) = match loaded(host).then(answer) {
        None => (all(State::Absent, reason::no_module()), None),
        Some(Err(why)) => {
            let reason = reason::no_answer(why);
            (all(State::Unknown, reason.clone()), Some(reason.imported_unknown()))
        }
        Some(Ok((listed, mut programs))) => (judge(&expected, &listed, &mut programs), None),
    };
    let expected_unknown = expected.unknown(settings);
    Report { pools, cache_file: expected.cache, expected_unknown, imported_unknown }
}

/// Whether the module is in the kernel: without it zpool(8) would try to load the system's.
pub(crate) fn loaded(host: &Host) -> bool {
    host.path("/sys/module/zfs").is_dir()
}

/// Whether the pool `name` is imported.
fn imported(host: &Host, name: &str) -> bool {
    host.path(IMPORTED).join(name).is_dir()
}

fn judge(expected: &Expected, listed: &[Listed], programs: &mut Programs) -> Vec<Pool> {
    let mut pools = Vec::new();
    let imported = |name: &str| listed.iter().find(|l| l.name == name);
    let absent = |(name, _): &&(String, By)| imported(name).is_none();
    let scanned = if expected.pools.iter().any(|e| absent(&e)) {
        programs.importable().map(|text| text::parse(&text))
    } else {
        Ok(Vec::new())
    };
    for (name, by) in &expected.pools {
        match imported(name) {
            Some(found) => pools.push(of_listed(found, Some(*by))),
            None => {
                let reason = reason::absent(name, *by, &scanned, &expected.cache);
                pools.push(Pool::new(name, Some(*by), State::Absent).because(reason));
            }
        }
    }
    let others = listed.iter().filter(|l| !expected.pools.iter().any(|(name, _)| *name == l.name));
    pools.extend(others.map(|other| of_listed(other, None)));
    explain(&mut pools, programs);
    keys::look(&mut pools, programs);
    pools
}

fn of_listed(listed: &Listed, by: Option<By>) -> Pool {
    let state = match &*listed.health {
        "ONLINE" if listed.readonly => State::ReadOnly,
        "ONLINE" => State::Online,
        "DEGRADED" => State::Degraded,
        "SUSPENDED" => State::Suspended,
        _ => State::Faulted,
    };
    let mut pool = Pool::new(&listed.name, by, state);
    pool.health = Some(listed.health.clone());
    if listed.readonly { pool.because(reason::read_only(&listed.name)) } else { pool }
}

/// Asks zpool(8) why imported pools are not healthy.
fn explain(pools: &mut [Pool], programs: &mut Programs) {
    let ill = |pool: &Pool| pool.health.as_deref().is_some_and(|health| health != "ONLINE");
    let names: Vec<&str> = pools.iter().filter(|p| ill(p)).map(|p| p.name.as_str()).collect();
    if names.is_empty() {
        return;
    }
    let blocks = programs.status(&names).map(|text| text::parse(&text));
    for pool in pools.iter_mut().filter(|pool| ill(pool)) {
        let mut reason = reason::impaired(&pool.name, pool.state, &blocks);
        if let Some(read_only) = &pool.reason {
            reason.why = format!("{}; {read_only}", reason.why);
        }
        *pool = pool.clone().because(reason);
    }
}

#[cfg(test)]
pub(crate) mod tests;
