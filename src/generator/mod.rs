//! The unit graph: what the generator puts into place so that the static units take part in the
//! boot. systemd.generator(7) sets the rules: no processes, no IPC, /var may not be there yet.

mod dataset;
mod dataset_text;
mod datasets;
mod detect;
mod graph;
mod installed;
mod kmsg;
mod mounts;
mod output;
mod plan;
mod problems;
mod zfs_list;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::config::{self, Loaded, Severity};
use crate::exit::Exit;
use crate::host::Host;
pub use detect::Environment;
use kmsg::{Kmsg, Level};
use output::Entry;
use problems::Problems;

/// The three output directories of a generator; with one argument all of them are that one.
struct Directories {
    normal: PathBuf,
    /// Has precedence over /etc/systemd/system.
    early: PathBuf,
}

/// The generator: `arguments` are its one or three directories. Messages go to the kernel log,
/// exit status 0 means that everything the boot needs was written (which may be nothing).
pub fn run(environment: &Environment, arguments: &[OsString]) -> ExitCode {
    let directories = match arguments {
        [only] => Directories { normal: only.into(), early: only.into() },
        [normal, early, _late] => Directories { normal: normal.into(), early: early.into() },
        _ => {
            eprintln!(
                "usage: zfs-prefix-generator DIRECTORY [EARLY-DIRECTORY LATE-DIRECTORY]\n\
                 Called by systemd at boot and at each daemon-reload, see systemd.generator(7).\n\
                 To try it: ZFS_PREFIX_ROOT=/some/root zfs-prefix-generator /tmp/output"
            );
            return Exit::Usage.into();
        }
    };
    let mut log = Kmsg::new(&environment.path("/dev/kmsg"));
    let outcome = detect::host(environment).and_then(|h| generate(&h, &directories, &mut log));
    match outcome {
        Ok(()) => Exit::Done.into(),
        Err(e) => {
            log.write(Level::Error, &format!("{e:#}"));
            Exit::Other.into()
        }
    }
}

fn generate(host: &Host, directories: &Directories, log: &mut Kmsg) -> anyhow::Result<()> {
    if host.in_initrd {
        log.write(Level::Debug, "in the initrd: nothing to do here");
        return Ok(());
    }
    let (loaded, in_var) = config::load_before_var(host);
    if let Some(path) = in_var {
        let path = path.display();
        log.write(Level::Debug, &format!("configuration in {path}: not read here, it is in /var"));
    }
    for note in &loaded.notes {
        let level = match note.severity {
            Severity::Warning => Level::Warning,
            Severity::Error => Level::Error,
        };
        log.write(level, &note.to_string());
    }
    if let Err(why) = loaded.settings.active(host) {
        log.write(Level::Debug, &format!("off: {why}{}", by(&loaded, "boot.enabled")));
        return Ok(());
    }
    let mut plan = plan::plan(host, &loaded)?;
    for warning in &plan.warnings {
        log.write(Level::Warning, warning);
    }
    for entry in &plan.entries {
        output::write(directories, entry)?;
    }
    let mut unwritten = operators(&plan.operators, directories, &mut plan.problems);
    unwritten += datasets(&plan.units, directories, &mut plan.problems);
    for problem in plan.problems.into_lines() {
        log.write(Level::Error, &problem);
    }
    log.write(Level::Debug, &plan.summary);
    if unwritten > 0 {
        anyhow::bail!(
            "{unwritten} drop-ins or units of datasets are not written; the rest is in place"
        );
    }
    if plan.missing.is_empty() {
        return Ok(());
    }
    anyhow::bail!(
        "not found in {}: {}; the rest is in place. Install zfs-prefix again",
        plan::UNIT_DIRECTORIES.join(" or "),
        plan.missing.join(", ")
    )
}

/// Writes drop-ins of other people's units. Returns how many could not be written. The boot path is
/// there by then.
fn operators(entries: &[Entry], to: &Directories, problems: &mut Problems) -> usize {
    let failed = entries.iter().filter_map(|entry| output::write(to, entry).err());
    failed.map(|e| problems.add(format_args!("boot.require-pools-for: {e:#}"))).count()
}

/// Writes the units of datasets. Returns how many could not be written. If one cannot be written,
/// the others still are: another generator may have a unit for that mount point.
fn datasets(units: &[datasets::Unit], to: &Directories, problems: &mut Problems) -> usize {
    let mut unwritten = 0;
    for unit in units {
        // The file comes first: a link to nothing would fail the units that require it.
        let mut entries = std::iter::once(&unit.file).chain(&unit.links);
        if let Err(e) = entries.try_for_each(|entry| output::write(to, entry)) {
            problems.add(format_args!("{e:#}"));
            unwritten += 1;
        }
    }
    unwritten
}

/// " (FILE)" when something other than the default decided `key`.
fn by(loaded: &Loaded, key: &str) -> String {
    loaded.origin(key).map_or(String::new(), |file: &Path| format!(" ({})", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine below `root`.
    pub(in crate::generator) fn host(root: &Path) -> Host {
        Host::below(root, "6.1.0")
    }
}
