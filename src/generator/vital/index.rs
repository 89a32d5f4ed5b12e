//! The files of units that are there when generators run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::host::files::Files;

/// The directories of systemd.unit(5) that others do not fill meanwhile, highest precedence first.
const DIRECTORIES: [&str; 5] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];
/// A system has a few hundred names.
const MOST_NAMES: usize = 20_000;
/// A unit is a page; anything near this size is a mistake.
const LARGEST: u64 = 256 << 10;

/// The names in the directories of units.
pub(in crate::generator) struct Index<'h> {
    files: Files<'h>,
    /// For each name, which of [`DIRECTORIES`] have it, highest precedence first.
    names: BTreeMap<String, Vec<usize>>,
}

impl<'h> Index<'h> {
    /// Reads the directories. One that cannot be read has no units.
    pub(in crate::generator) fn read(files: Files<'h>) -> Index<'h> {
        let mut names: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        let mut known: Vec<PathBuf> = Vec::new();
        for (at, directory) in DIRECTORIES.iter().enumerate() {
            // /lib is a link to usr/lib on most systems.
            let path = files.way(Path::new(directory)).path;
            if known.contains(&path) {
                continue;
            }
            known.push(path);
            let found = files.names(Path::new(directory)).unwrap_or_default();
            for name in found.into_iter().filter_map(|name| name.into_string().ok()) {
                if names.len() < MOST_NAMES {
                    names.entry(name).or_default().push(at);
                }
            }
        }
        Index { files, names }
    }

    /// The file of `unit`, of several the one that counts.
    pub(in crate::generator) fn file(&self, unit: &str) -> Option<PathBuf> {
        self.names.get(unit)?.first().map(|at| Path::new(DIRECTORIES[*at]).join(unit))
    }

    /// What the file of `unit` and its drop-ins say. A unit that is masked says nothing.
    pub(super) fn texts(&self, unit: &str) -> Vec<String> {
        let mut names = vec![unit.to_owned()];
        let mut texts = Vec::new();
        if let Some(file) = self.file(unit) {
            let Some(text) = self.text(&file) else { return texts };
            texts.push(text);
            // The drop-ins of the unit that this is another name of.
            let leads_to = self.files.way(&file).path;
            names.extend(leads_to.file_name().and_then(|name| name.to_str()).map(str::to_owned));
        }
        names.dedup();
        for directory in names.iter().flat_map(|name| self.drop_in_directories(name)) {
            texts.extend(self.below(&directory).iter().filter_map(|path| self.text(path)));
        }
        texts
    }

    /// The units that `unit` requires by a link in `unit.requires`.
    pub(super) fn required_by_link(&self, unit: &str) -> Vec<String> {
        let paths = self.below(&format!("{unit}.requires"));
        let names = paths.iter().filter_map(|path| path.file_name()?.to_str());
        names.map(str::to_owned).collect()
    }

    /// Paths of everything in the directories of this name.
    fn below(&self, name: &str) -> Vec<PathBuf> {
        let directories = self.names.get(name).into_iter().flatten();
        let directories = directories.map(|at| Path::new(DIRECTORIES[*at]).join(name));
        let paths = directories.flat_map(|directory| {
            let names = self.files.names(&directory).unwrap_or_default();
            names.into_iter().map(move |name| directory.join(name))
        });
        paths.collect()
    }

    fn text(&self, path: &Path) -> Option<String> {
        let bytes = self.files.read(path, LARGEST).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The names of the directories with drop-ins of `unit` (systemd.unit(5), "Description"): its
    /// own, those of the beginnings of its name up to a dash, those of its type, and if it is a
    /// template, those of all its instances.
    fn drop_in_directories(&self, unit: &str) -> Vec<String> {
        let Some((stem, kind)) = unit.rsplit_once('.') else { return Vec::new() };
        let dashes = stem.match_indices('-').map(|(at, _)| &stem[..=at]);
        let beginnings = [stem].into_iter().chain(dashes);
        let mut names: Vec<String> = beginnings.map(|b| format!("{b}.{kind}.d")).collect();
        names.push(format!("{kind}.d"));
        if stem.ends_with('@') {
            let from = self.names.range(stem.to_owned()..);
            let instances = from.map(|(name, _)| name).take_while(|name| name.starts_with(stem));
            let end = format!(".{kind}.d");
            names.extend(instances.filter(|name| name.ends_with(&end)).cloned());
        }
        names
    }
}
