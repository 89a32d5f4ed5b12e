//! The unit graph: what the generator puts into place so that the static units take part in the
//! boot. systemd.generator(7) sets the rules: no processes, no IPC, /var may not be there yet.

mod detect;
mod kmsg;
mod mounts;
mod output;
mod plan;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::config::{self, Loaded, Severity};
use crate::exit::Exit;
use crate::host::Host;
pub use detect::Environment;
use kmsg::{Kmsg, Level};

/// The three output directories of a generator; with one argument all of them are that one.
struct Directories {
    normal: PathBuf,
    /// Beats /etc/systemd/system.
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
    let loaded = config::load(host);
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
    let plan = plan::plan(host, &loaded)?;
    for warning in &plan.warnings {
        log.write(Level::Warning, warning);
    }
    for entry in &plan.entries {
        output::write(directories, entry)?;
    }
    log.write(Level::Debug, &plan.summary);
    if plan.missing.is_empty() {
        return Ok(());
    }
    anyhow::bail!(
        "not found in {}: {}; the rest is in place. Install zfs-prefix again",
        plan::UNIT_DIRECTORIES.join(" or "),
        plan.missing.join(", ")
    )
}

/// " (FILE)" when something other than the default decided `key`.
fn by(loaded: &Loaded, key: &str) -> String {
    loaded.origin(key).map_or(String::new(), |file: &Path| format!(" ({})", file.display()))
}
