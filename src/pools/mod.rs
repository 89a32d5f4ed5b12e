//! The pools that this machine has to have: which they are, how they are, and why one is not.
//! Nothing here forces anything: what an operator would have to decide is said as a command.

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
use ask::{Listed, Programs};
pub use cache_file::CacheFile;
pub use expected::{By, Expected};
pub use import::{Imported, by_name};
pub use keys::Locked;
pub use nvlist::{Malformed, pool_names};
use reason::Reason;

/// How a pool is.
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
    /// It could not be found out.
    Unknown,
}

/// One pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Who says that it has to be there; null: nobody, it is only imported.
    pub expected: Option<By>,
    /// How it is.
    pub state: State,
    /// The same in zpool(8)'s word; null: not imported, or not known.
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
    /// What there is at /etc/zfs/zpool.cache.
    pub cache_file: CacheFile,
    /// Why it is not known which pools are expected, and what to do; null: it is.
    pub expected_unknown: Option<String>,
    /// Why it is not known which pools are imported, and what to do; null: it is.
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

    /// Online, writable, and all that the boot would have mounted known to be unlocked.
    pub fn sound(&self) -> bool {
        let unlocked = |locked: &Vec<Locked>| !locked.iter().any(Locked::matters);
        self.state == State::Online && self.locked.as_ref().is_some_and(unlocked)
    }

    /// In one word, that of zpool(8) where it has one.
    pub fn word(&self) -> &str {
        match self.state {
            State::Absent => "ABSENT",
            State::Unknown => "UNKNOWN",
            State::ReadOnly => "READ-ONLY",
            _ => self.health.as_deref().unwrap_or("UNKNOWN"),
        }
    }
}

/// On one line, and further ones for the reason and what to do.
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
    /// Whether each expected pool is as it has to be, and it is known which they are. Where nobody
    /// expects any, a zpool that does not answer is a pool that hangs, or a broken installation.
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
fn loaded(host: &Host) -> bool {
    host.path("/sys/module/zfs").is_dir()
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

/// Asks for the reasons of those that are imported and not well.
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
