//! The unit graph: what the generator puts into place so that the static units take part in the
//! boot. systemd.generator(7) sets the rules: no processes, no IPC, /var may not be there yet.

mod dataset;
mod dataset_text;
mod datasets;
mod detect;
mod graph;
mod installed;
mod kmsg;
mod legacy;
mod output;
mod plan;
mod vital;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::config::{self, Loaded, Severity};
use crate::exit::Exit;
use crate::host::Host;
use crate::host::files::Files;
use crate::mountpoints::budget::Budget;
use crate::mountpoints::problems::Problems;
use crate::mountpoints::{Announced, Mounts};
use datasets::{System, Unit};
pub use detect::Environment;
use kmsg::{Kmsg, Level};
use output::Entry;

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
    for path in in_var {
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
    let mut problems = Problems::default();
    let files = Files::before_var(host);
    let announced = Announced::read(files, &mut problems);
    let mounts = Mounts::of(files, &announced);
    let plan = plan::plan(host, &loaded, &mounts)?;
    for warning in &plan.warnings {
        log.write(Level::Warning, warning);
    }
    for entry in &plan.entries {
        output::write(directories, entry)?;
    }
    let mut out = Out { directories, unwritten: 0 };
    for drop_in in &plan.operators {
        out.write("boot.require-pools-for: ", drop_in, &[], &mut problems);
    }
    // The boot has what it needs. Only now each dataset is looked at.
    let done = datasets(&announced, &mounts, host, &loaded, &mut out, &mut problems);
    for problem in problems.into_lines() {
        log.write(Level::Error, &problem);
    }
    for (link, target) in done.links {
        log.write(
            Level::Warning,
            &format!(
                "{} leads to {}: at a daemon-reload that writes units of datasets, too, and they \
                 are written here. Remove the link",
                link.display(),
                target.display()
            ),
        );
    }
    log.write(Level::Debug, &(plan.summary + &done.summary));
    let unwritten = out.unwritten;
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

/// What is to be said of the datasets.
#[derive(Default)]
struct Done {
    summary: String,
    /// Links to a generator that runs at a daemon-reload only, beside this one.
    links: Vec<(PathBuf, PathBuf)>,
}

/// The units of datasets, and the drop-ins for those of fstab.
fn datasets(
    announced: &Announced,
    mounts: &Mounts<'_>,
    host: &Host,
    loaded: &Loaded,
    out: &mut Out<'_>,
    problems: &mut Problems,
) -> Done {
    let budget = Budget::for_units();
    let lists = &announced.lists;
    if lists.is_empty() && !announced.fstab.iter().any(|entry| entry.zfs) {
        return Done::default();
    }
    let index = vital::Index::read(Files::before_var(host));
    let vital = vital::paths(&index, &announced.fstab);
    let canonical = |path: &String| mounts.canonical(Path::new(path)).into_os_string();
    let vital: Vec<String> =
        vital.iter().filter_map(|path| canonical(path).into_string().ok()).collect();
    for drop_in in legacy::drop_ins(&announced.fstab, mounts, &vital, &budget, problems) {
        out.write("", &drop_in, &[], problems);
    }
    if lists.is_empty() {
        return Done::default();
    }
    let peer = installed::mount_generator(host);
    let zfs = &installed::zfs(host, loaded.settings.zfs.userland);
    let system = System { host, mounts, index: &index, vital: &vital, zfs, peer: peer.as_deref() };
    let write = |Unit { file, links }: &Unit, problems: &mut Problems| {
        out.write("", file, links, problems);
    };
    let summary = datasets::units(lists, &system, &budget, problems, write);
    let links = if peer.is_none() { installed::links_to_a_generator(host) } else { Vec::new() };
    Done { summary, links }
}

/// Writes what the boot can do without. The boot path is there by then.
struct Out<'d> {
    directories: &'d Directories,
    /// How many could not be written.
    unwritten: usize,
}

impl Out<'_> {
    /// Writes a unit with its links, or a drop-in. If it cannot be written, the others still are:
    /// another generator may have a unit for that mount point. `about` begins the message.
    fn write(&mut self, about: &str, file: &Entry, links: &[Entry], problems: &mut Problems) {
        // The file comes first: a link to nothing would fail the units that require it.
        let mut entries = std::iter::once(file).chain(links);
        if let Err(e) = entries.try_for_each(|entry| output::write(self.directories, entry)) {
            problems.add(format_args!("{about}{e:#}"));
            self.unwritten += 1;
        }
    }
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
