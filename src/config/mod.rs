//! Configuration: the main file, drop-ins and the kernel command line become [`Settings`].
//!
//! Loading never fails. Each mistake becomes a [`Note`] that names file, line and column. A file
//! with an error is set aside as a whole, and the rest applies. A boot must not hang on a typo.
//! zfs-prefix.toml(5) documents the configuration for operators.

mod atom;
mod choice;
mod cmdline;
mod files;
mod fragment;
mod location;
mod note;
mod origin;
mod place;
mod pool;
mod settings;
mod units;
mod value;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use choice::{Enabled, Recipe, Strategy, Userland, WhenMissing};
pub(crate) use cmdline::boolean;
pub use fragment::keys;
pub use location::{
    Pinned, Place, PublicKey, Source, expand_release, fill_release, is_tarball, without_query,
};
pub use note::{Note, Severity};
pub use origin::{parse_sha256, parse_source};
pub use pool::is_pool_name;
pub use settings::{Boot, Build, Kernel, Pools, Portage, Prefix, Settings, Zfs};

use crate::host::Host;
use crate::host::files::Files;
use fragment::Fragment;

/// The origin that is reported for a setting from the kernel command line.
pub const CMDLINE: &str = "/proc/cmdline";

/// The outcome of [`load`].
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// The settings that apply.
    pub settings: Settings,
    /// The mistakes, in the order they were found.
    pub notes: Vec<Note>,
    origins: BTreeMap<&'static str, PathBuf>,
}

impl Loaded {
    /// The file that decided `key` (as in `boot.when-missing`): a configuration file,
    /// [`CMDLINE`], or None for the default.
    pub fn origin(&self, key: &str) -> Option<&Path> {
        self.origins.get(key).map(PathBuf::as_path)
    }
}

/// Reads the configuration of `host`: main file, then drop-ins in the order of their names, then
/// the kernel command line. For each key, the last one wins.
pub fn load(host: &Host) -> Loaded {
    from(host, Files::now(host)).0
}

/// Like [`load`], but does not read /var, which is not mounted yet when generators run at boot. The
/// second value: files and directories that a symlink puts there, as `/usr/local` is on some
/// systems (Fedora CoreOS). They are left out.
pub fn load_before_var(host: &Host) -> (Loaded, Vec<PathBuf>) {
    from(host, Files::before_var(host))
}

fn from(host: &Host, files: Files<'_>) -> (Loaded, Vec<PathBuf>) {
    let mut loaded = Loaded::default();
    let mut merged = Fragment::default();
    let (files, later) = files::list(files);
    for file in files {
        let parsed = match file.text {
            Ok(text) => fragment::parse(&text),
            Err(problem) => Err(vec![problem]),
        };
        match parsed {
            Ok((fragment, unknown)) => {
                loaded.notes.extend(unknown.into_iter().map(|p| p.warning(&file.path)));
                adopt(&mut loaded, &mut merged, fragment, &file.path);
            }
            Err(problems) => {
                loaded.notes.extend(problems.into_iter().map(|p| p.error(&file.path)));
            }
        }
    }
    let (fragment, problems) = cmdline::parse(&host.cmdline);
    loaded.notes.extend(problems.into_iter().map(|p| p.warning(Path::new(CMDLINE))));
    adopt(&mut loaded, &mut merged, fragment, Path::new(CMDLINE));
    loaded.settings = merged.into_settings();
    check_backoff(&mut loaded);
    (loaded, later)
}

fn adopt(loaded: &mut Loaded, merged: &mut Fragment, fragment: Fragment, path: &Path) {
    for key in fragment.named() {
        loaded.origins.insert(key, path.to_owned());
    }
    merged.overlay(fragment);
}

/// The two back-off times may come from different files, so neither file alone is wrong. The longer
/// time applies to both.
fn check_backoff(loaded: &mut Loaded) {
    let build = &mut loaded.settings.build;
    if build.backoff <= build.backoff_max {
        return;
    }
    build.backoff_max = build.backoff;
    let file = loaded.origin("build.backoff").or(loaded.origin("build.backoff-max"));
    let file = file.unwrap_or(Path::new("")).to_owned();
    let message = "build.backoff is longer than build.backoff-max: using it for both; \
                   raise build.backoff-max";
    loaded.notes.push(Note {
        severity: Severity::Warning,
        file,
        line: None,
        column: None,
        message: message.to_owned(),
    });
}

#[cfg(test)]
mod tests;
