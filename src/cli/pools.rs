//! `zfs-prefix pools`: which pools are expected, which are there, and what is wrong with them. Also
//! the check of zfs-pools.service, and the import of zfs-import-expected.service.

use anyhow::Result;
use clap::Parser;
use tracing::{error, info, warn};

use super::print;
use crate::config::{self, Loaded};
use crate::exit::Exit;
use crate::host::Host;
use crate::log::id;
use crate::pools::absent::{self, Directory};
use crate::pools::{self, Imported, Pool, Report, State, memory};

#[derive(Debug, Parser)]
pub struct Args {
    /// As JSON
    #[arg(long, group = "what")]
    json: bool,
    /// Say in the journal how each expected pool is, and exit with 20 if one is not online and
    /// writable (zfs-pools.service uses this)
    #[arg(long, group = "what")]
    check: bool,
    /// Import each pool of pools.expected that is not imported, by its name, never by force
    /// (zfs-import-expected.service uses this)
    #[arg(long, group = "what")]
    import: bool,
    /// No longer expect a pool that was in zpool.cache and is gone for good
    #[arg(long, group = "what", value_name = "POOL")]
    forget: Option<String>,
}

pub fn run(host: &Host, args: &Args) -> Result<u8> {
    let loaded = config::load(host);
    if let Some(name) = &args.forget {
        return forget(host, &loaded, name);
    }
    if !(args.check || args.import) {
        for note in &loaded.notes {
            eprintln!("zfs-prefix: {note}");
        }
    }
    match args {
        Args { check: true, .. } => Ok(check(host, &loaded).code()),
        Args { import: true, .. } => Ok(import(host, &loaded).code()),
        Args { json, .. } => {
            let report = pools::look(host, &loaded.settings);
            if *json {
                print(&serde_json::to_string_pretty(&report)?)?;
            } else {
                print(shown(&report).trim_end())?;
            }
            Ok(exit(&report).code())
        }
    }
}

/// The exit status: the same for an operator who looks, and for the check.
fn exit(report: &Report) -> Exit {
    if report.sound() { Exit::Done } else { Exit::PoolsAbsent }
}

fn forget(host: &Host, loaded: &Loaded, name: &str) -> Result<u8> {
    absent::refuse(host, &loaded.settings, &[Directory::State])?;
    if memory::forget(host, name)? {
        return Ok(Exit::Done.code());
    }
    eprintln!("zfs-prefix: no pool {name} is missed; nothing is forgotten");
    Ok(Exit::Other.code())
}

fn shown(report: &Report) -> String {
    let mut lines: Vec<String> =
        report.pools.iter().map(|pool| pool.to_string().replace('\n', "\n    ")).collect();
    lines.extend(not_known(report));
    if report.expected_unknown.is_none() && report.pools.iter().all(|pool| pool.expected.is_none())
    {
        lines.push(nothing_expected(report));
    }
    lines.join("\n")
}

/// What is reported without a pool: why it is not known which pools are expected, or imported. If
/// there are expected pools, the latter is reported for each of them.
pub(super) fn not_known(report: &Report) -> Vec<String> {
    let imported = report.imported_unknown.as_ref().filter(|_| report.pools.is_empty());
    report.expected_unknown.iter().chain(imported).cloned().collect()
}

fn nothing_expected(report: &Report) -> String {
    format!("no pool is expected: pools.expected is not set, and {}", report.cache_file.describe())
}

/// Logs an entry for each expected pool that is not sound, or one entry that says that all are.
fn check(host: &Host, loaded: &Loaded) -> Exit {
    let kernel = host.kernel_release.as_str();
    let report = pools::look(host, &loaded.settings);
    if report.imported_unknown.is_none() {
        let imported = |name: &str| {
            report.pools.iter().any(|pool| pool.name == name && pool.state != State::Absent)
        };
        let there = absent::refuse(host, &loaded.settings, &[Directory::State]);
        if let Err(e) = there.and_then(|()| memory::keep(host, imported)) {
            warn!(zfs_prefix_stage = "pools", "which pools are missing could not be noted: {e:#}");
        }
    }
    for pool in report.pools.iter().filter(|pool| pool.expected.is_some() && !pool.sound()) {
        complain(pool, kernel);
    }
    for why in not_known(&report) {
        error!(
            message_id = id::POOLS_NOT_KNOWN,
            zfs_prefix_stage = "pools",
            zfs_prefix_kernel = kernel,
            "{why}"
        );
    }
    if report.sound() {
        info!(
            message_id = id::POOLS_SOUND,
            zfs_prefix_stage = "pools",
            zfs_prefix_kernel = kernel,
            "{}",
            sound(&report)
        );
    }
    exit(&report)
}

/// `pools: tank ONLINE`, and the keys that nobody has been asked for yet.
fn sound(report: &Report) -> String {
    let one = |pool: &Pool| {
        let note = pool.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        format!("{} {}{note}", pool.name, pool.word())
    };
    let expected = report.pools.iter().filter(|pool| pool.expected.is_some());
    match expected.map(one).collect::<Vec<_>>() {
        none if none.is_empty() => nothing_expected(report),
        all => format!("pools: {}", all.join(", ")),
    }
}

fn complain(pool: &Pool, kernel: &str) {
    let message_id = match pool.state {
        State::Absent => id::POOL_ABSENT,
        State::Unknown => id::POOL_UNKNOWN,
        State::Online if pool.locked.is_none() => id::POOL_UNKNOWN,
        State::Online => id::POOL_LOCKED,
        _ => id::POOL_IMPAIRED,
    };
    // zpool's own words end with a full stop.
    let reason = pool.reason.as_deref().unwrap_or("the reason is not known").trim_end_matches('.');
    let what = pool.what_to_do.as_ref().map(|what| format!(". To do: {what}")).unwrap_or_default();
    error!(
        message_id,
        zfs_prefix_stage = "pools",
        zfs_prefix_kernel = kernel,
        zfs_prefix_pool = pool.name.as_str(),
        "pool {} {}: {reason}{what}",
        pool.name,
        pool.word()
    );
}

/// Imports the expected pools, and logs an entry for each.
fn import(host: &Host, loaded: &Loaded) -> Exit {
    let outcome = match pools::by_name(host, &loaded.settings) {
        Ok(outcome) => outcome,
        Err(why) => {
            error!(
                message_id = id::POOL_NOT_IMPORTED,
                zfs_prefix_stage = "import",
                "no pool is imported by name: {why}"
            );
            return Exit::PoolsAbsent;
        }
    };
    if outcome.is_empty() {
        info!(
            zfs_prefix_stage = "import",
            "no pool is imported by name: pools.expected is not set"
        );
    }
    let mut exit = Exit::Done;
    for (name, how) in &outcome {
        let pool = name.as_str();
        match how {
            Imported::Before => {
                info!(
                    zfs_prefix_stage = "import",
                    zfs_prefix_pool = pool,
                    "{name} is imported already"
                );
            }
            Imported::Now => info!(
                message_id = id::POOL_IMPORTED,
                zfs_prefix_stage = "import",
                zfs_prefix_pool = pool,
                "imported {name} by its name"
            ),
            Imported::Not(why) => {
                exit = Exit::PoolsAbsent;
                error!(
                    message_id = id::POOL_NOT_IMPORTED,
                    zfs_prefix_stage = "import",
                    zfs_prefix_pool = pool,
                    "{name} is not imported: {why}"
                );
            }
        }
    }
    exit
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pools::tests::{host, script};

    #[test]
    fn whoever_looks_gets_20_as_well_when_a_pool_is_not_there() {
        let (_root, host) = host();
        let config = host.path("/etc/zfs-prefix/config.toml");
        std::fs::create_dir_all(config.parent().unwrap()).unwrap();
        std::fs::write(config, "pools.expected = [\"tank\"]\n").unwrap();
        std::fs::create_dir_all(host.path("/sys/module/zfs")).unwrap();
        script(&host, "zfs", "exit 0");
        for (listed, want) in
            [("tank\\tONLINE\\toff\\n", 0), ("", 20), ("tank\\tONLINE\\ton\\n", 20)]
        {
            script(&host, "zpool", &format!("printf '{listed}'"));
            for (json, check) in [(false, false), (true, false), (false, true)] {
                let args = Args { json, check, import: false, forget: None };
                assert_eq!(run(&host, &args).unwrap(), want, "{listed} {args:?}");
            }
        }
    }
}
