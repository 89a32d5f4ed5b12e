//! modprobe.d(5) and the kernel command line, as far as they matter to loading: options of modules,
//! and what holds a module back.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use tracing::warn;

use super::system::list;
use crate::host::Host;
use crate::module::modprobe_d::{self, Kind, Rule};
use crate::module::options::{DIRECTORIES, Options};
use crate::module::refusal::forbidden;

/// What is read of one file. Real ones have a few KiB.
const MAX_FILE: u64 = 1 << 20;

/// What keeps a module from being loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Hold {
    /// The module.
    pub module: String,
    /// A file and the number of its line, or the kernel command line.
    pub place: String,
    /// The line or word.
    pub says: String,
    /// The kernel itself refuses the module in this boot (`module_blacklist=`). Otherwise it is the
    /// operator's word that the boot does not load it.
    pub by_kernel: bool,
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} says \"{}\"", self.place, self.says)
    }
}

/// A module, and those of OpenZFS that it cannot be without. All that it depends on is known only
/// once its file was read.
pub(super) fn family(module: &str) -> Vec<String> {
    let needed: &[&str] = if module == "zfs" { &["zfs", "spl"] } else { &[module] };
    needed.iter().map(|&name| name.to_owned()).collect()
}

/// The kernel command line, as a [`Hold::place`].
const CMDLINE: &str = "the kernel command line";

/// What modprobe.d(5) and the kernel command line say.
pub(super) struct Modprobe {
    /// Those of modprobe.d, then those of the kernel command line, which win.
    pub(super) options: Options,
    /// With their places, in the order of the files' names.
    rules: Vec<(String, Rule)>,
    /// The modules of `modprobe.blacklist=`, each with its word.
    blacklisted: Vec<(String, String)>,
}

impl Modprobe {
    /// Reads this machine's. As for modprobe(8), what cannot be read costs nothing else; a warning
    /// names it.
    pub(super) fn read(host: &Host) -> Modprobe {
        let cmdline = host.kernel_cmdline();
        let mut read = Modprobe {
            options: Options::default(),
            rules: Vec::new(),
            blacklisted: modprobe_d::blacklisted(&cmdline),
        };
        for path in files(host) {
            match text_of(&path) {
                Ok(text) => read.add(&path, &text),
                Err(e) => warn!("what {} says of modules is not known: {e}", path.display()),
            }
        }
        read.options.add_cmdline(&cmdline);
        read
    }

    fn add(&mut self, path: &Path, text: &str) {
        self.options.add_file(text);
        let placed = |rule: Rule| (format!("{}:{}", path.display(), rule.line), rule);
        self.rules.extend(modprobe_d::rules(text).into_iter().map(placed));
    }

    /// What the operator says against loading `module` at boot, or one that it needs in any case
    /// ([`family`]).
    pub(super) fn holds(&self, module: &str) -> Vec<Hold> {
        family(module).iter().filter_map(|name| self.hold(name, true)).collect()
    }

    /// What the operator says against loading `module` at boot. `blacklists`: they count as much as
    /// commands that do nothing. For modprobe(8) they only switch off a module's aliases, so they
    /// do not count for a module that is needed by another one.
    pub(super) fn hold(&self, module: &str, blacklists: bool) -> Option<Hold> {
        let hold = |place: &str, says: &str| Hold {
            module: module.to_owned(),
            place: place.to_owned(),
            says: says.to_owned(),
            by_kernel: false,
        };
        let listed = self.about(module).find(|(_, r)| blacklists && r.kind == Kind::Blacklist);
        let line = listed.or_else(|| self.install(module).filter(|(_, r)| r.kind == Kind::Idle));
        line.map(|(place, rule)| hold(place, &rule.text)).or_else(|| {
            let named = |(name, _): &&(String, String)| blacklists && name == module;
            self.blacklisted.iter().find(named).map(|(_, word)| hold(CMDLINE, word))
        })
    }

    /// The command that modprobe(8) would run instead of loading `module`, if that does anything:
    /// its place and line.
    pub(super) fn helper(&self, module: &str) -> Option<String> {
        let (place, rule) = self.install(module).filter(|(_, rule)| rule.kind == Kind::Helper)?;
        Some(format!("{place} says \"{}\"", rule.text))
    }

    /// The `install` line for `module`. The first one counts, in whatever file.
    fn install(&self, module: &str) -> Option<&(String, Rule)> {
        self.about(module).find(|(_, rule)| rule.kind != Kind::Blacklist)
    }

    fn about(&self, module: &str) -> impl Iterator<Item = &(String, Rule)> {
        self.rules.iter().filter(move |(_, rule)| rule.names(module))
    }
}

/// The kernel's own refusals to load `module`, or one that it needs in any case ([`family`]).
pub(super) fn refusals(host: &Host, module: &str) -> Vec<Hold> {
    let Some(value) = forbidden(host) else { return Vec::new() };
    let mut family = family(module);
    family.retain(|name| value.split(',').any(|forbidden| forbidden == name));
    let hold = |module| Hold {
        module,
        place: CMDLINE.to_owned(),
        says: format!("module_blacklist={value}"),
        by_kernel: true,
    };
    family.into_iter().map(hold).collect()
}

/// The modprobe.d(5) files of this machine, sorted by name; a name in an earlier directory masks
/// the later ones. Like kmod, it takes neither directories nor hidden files.
fn files(host: &Host) -> Vec<PathBuf> {
    let mut files = BTreeMap::new();
    for dir in DIRECTORIES {
        let paths = list(&host.path(dir)).unwrap_or_else(|e| {
            warn!("module options are not known: {e:#}");
            Vec::new()
        });
        for path in paths {
            let Some(name) = path.file_name() else { continue };
            let bytes = name.as_encoded_bytes();
            if bytes.ends_with(b".conf") && !bytes.starts_with(b".") && !path.is_dir() {
                files.entry(name.to_owned()).or_insert(path);
            }
        }
    }
    files.into_values().collect()
}

/// The text of a file. A FIFO is as good as an empty file, and keeps nobody waiting.
fn text_of(path: &Path) -> std::io::Result<String> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
