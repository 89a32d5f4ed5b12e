//! What the manager knows of a unit, at one moment.

use std::collections::HashMap;

use zbus::zvariant::{OwnedObjectPath, OwnedValue};

use super::{Error, Manager};

const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
pub(super) const INTERFACE: &str = "org.freedesktop.systemd1.Unit";

/// Properties of a unit (org.freedesktop.systemd1(5), "Unit Objects").
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unit {
    /// Its name, as it was asked for.
    pub name: String,
    /// LoadState: `loaded`, `not-found`, `masked`, `bad-setting`, `error`.
    pub load: String,
    /// ActiveState: `active`, `reloading`, `inactive`, `failed`, `activating`, `deactivating`.
    pub active: String,
    /// UnitFileState: `enabled`, `disabled`, `static`, `masked`, …; empty without a file.
    pub file: String,
    /// SubState: `running`, `exited`, `auto-restart`, ….
    pub sub: String,
    /// Type, of services (`oneshot`, `simple`, …) and of mounts (the file system's).
    pub kind: String,
    /// What, of mounts.
    pub what: String,
    /// Where, of mounts.
    pub place: String,
    /// NRestarts, of services: how often systemd restarted it by itself since somebody started it.
    pub restarts: u32,
    /// Result, of those types of units that have one: `success`, `exit-code`, `exec-condition`, ….
    pub result: String,
    /// ExecMainStatus, of services; other units have none.
    pub status: Option<i32>,
    /// ConditionResult: the conditions were met when they were last looked at.
    pub condition: bool,
    /// The conditions that were not met then, as in a unit file.
    pub unmet: Vec<String>,
    /// What ConditionPathExists= and AssertPathExists= ask to be absent.
    pub absent_paths: Vec<String>,
    /// A job for it is queued.
    pub job: bool,
    /// Wants=, Requires= and the like.
    pub wants: Vec<String>,
    /// Those of `wants` that it does not start without.
    pub requires: Vec<String>,
    /// RequiresMountsFor=
    pub mounts_for: Vec<String>,
    /// WantedBy=, RequiredBy= and the like, wherever the link is.
    pub wanted_by: Vec<String>,
    /// After=
    pub after: Vec<String>,
}

impl Unit {
    /// Nothing happens to it at the moment.
    pub fn is_settled(&self) -> bool {
        !self.job && matches!(self.active.as_str(), "active" | "inactive" | "failed")
    }

    /// It runs, or will in a moment.
    pub fn is_up(&self) -> bool {
        matches!(self.active.as_str(), "active" | "activating" | "reloading")
    }
}

type Properties = HashMap<String, OwnedValue>;

/// Reads the object at `path`.
pub(super) fn read(
    manager: &mut Manager,
    name: &str,
    path: &OwnedObjectPath,
) -> Result<Unit, Error> {
    let mut all = |interface: &str| -> Result<Properties, Error> {
        manager.call_on(path.as_str(), PROPERTIES, "GetAll", &(interface,))
    };
    let unit = all(INTERFACE)?;
    let own = match type_interface(name) {
        Some(interface) => all(interface)?,
        None => Properties::new(),
    };
    let (conditions, asserts) = (conditions(&unit, "Conditions"), conditions(&unit, "Asserts"));
    Ok(Unit {
        name: name.to_owned(),
        load: text(&unit, "LoadState"),
        active: text(&unit, "ActiveState"),
        file: text(&unit, "UnitFileState"),
        sub: text(&unit, "SubState"),
        kind: text(&own, "Type"),
        what: text(&own, "What"),
        place: text(&own, "Where"),
        restarts: own.get("NRestarts").and_then(|v| u32::try_from(v).ok()).unwrap_or_default(),
        result: text(&own, "Result"),
        status: own.get("ExecMainStatus").and_then(|v| i32::try_from(v).ok()),
        condition: unit.get("ConditionResult").and_then(|v| bool::try_from(v).ok()) == Some(true),
        unmet: conditions.iter().filter(|c| c.state < 0).map(Condition::shown).collect(),
        absent_paths: conditions
            .into_iter()
            .filter(|c| c.is_absence("ConditionPathExists"))
            .chain(asserts.into_iter().filter(|c| c.is_absence("AssertPathExists")))
            .map(|c| c.value)
            .collect(),
        job: unit.get("Job").is_some_and(has_job),
        wants: lists(&unit, &["Wants", "Requires", "BindsTo", "Upholds"]),
        requires: lists(&unit, &["Requires", "BindsTo"]),
        mounts_for: lists(&unit, &["RequiresMountsFor"]),
        wanted_by: lists(&unit, &["WantedBy", "RequiredBy", "BoundBy", "UpheldBy"]),
        after: lists(&unit, &["After"]),
    })
}

/// The D-Bus interface of a unit's type, for the types that have a result.
fn type_interface(name: &str) -> Option<&'static str> {
    match name.rsplit_once('.')?.1 {
        "service" => Some("org.freedesktop.systemd1.Service"),
        "mount" => Some("org.freedesktop.systemd1.Mount"),
        "socket" => Some("org.freedesktop.systemd1.Socket"),
        "timer" => Some("org.freedesktop.systemd1.Timer"),
        "path" => Some("org.freedesktop.systemd1.Path"),
        _ => None,
    }
}

fn text(properties: &Properties, name: &str) -> String {
    let value = properties.get(name).and_then(|v| <&str>::try_from(v).ok());
    value.unwrap_or_default().to_owned()
}

fn lists(properties: &Properties, names: &[&str]) -> Vec<String> {
    let values = names.iter().filter_map(|name| properties.get(*name)?.try_clone().ok());
    values.filter_map(|value| Vec::<String>::try_from(value).ok()).flatten().collect()
}

/// (id, path), with id 0 where there is none.
fn has_job(value: &OwnedValue) -> bool {
    let job = value.try_clone().ok().and_then(|v| <(u32, OwnedObjectPath)>::try_from(v).ok());
    job.is_some_and(|(id, _)| id != 0)
}

/// An element of Conditions, or of Asserts.
struct Condition {
    kind: String,
    trigger: bool,
    negated: bool,
    value: String,
    state: i32,
}

impl Condition {
    fn shown(&self) -> String {
        let trigger = if self.trigger { "|" } else { "" };
        let negated = if self.negated { "!" } else { "" };
        format!("{}={trigger}{negated}{}", self.kind, self.value)
    }

    fn is_absence(&self, kind: &str) -> bool {
        self.kind == kind && self.negated && !self.trigger
    }
}

fn conditions(properties: &Properties, name: &str) -> Vec<Condition> {
    let value = properties.get(name).and_then(|v| v.try_clone().ok());
    let list = value.and_then(|v| Vec::<(String, bool, bool, String, i32)>::try_from(v).ok());
    let read =
        |(kind, trigger, negated, value, state)| Condition { kind, trigger, negated, value, state };
    list.unwrap_or_default().into_iter().map(read).collect()
}
