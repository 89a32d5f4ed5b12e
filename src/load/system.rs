//! The operating system's own modules and module options, as modprobe(8) finds them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::Ready;
use crate::host::{Host, Release};
use crate::module::{Found, decompress, name_of_path, options, read_info};

/// Where out-of-tree modules are (depmod.d(5)'s usual search order; DKMS, akmods, weak-modules).
const OUT_OF_TREE: [&str; 3] = ["updates", "extra", "weak-updates"];

/// The module directories of the running kernel, with their modules.dep.
pub(super) struct System {
    root: PathBuf,
    dirs: Vec<(PathBuf, String)>,
}

impl System {
    pub(super) fn open(host: &Host) -> Result<System> {
        System::of(host, &host.kernel_release)
    }

    /// The module directories of kernel `release`.
    pub(super) fn of(host: &Host, release: &Release) -> Result<System> {
        let mut dirs: Vec<(PathBuf, String)> = Vec::new();
        for base in ["/usr/lib/modules", "/lib/modules"] {
            let dir = host.path(base).join(release.as_str());
            // /lib is a link to usr/lib on most systems.
            let known = |d: &Path| dirs.iter().any(|(k, _)| same(k, d));
            if dir.is_dir() && !known(&dir) {
                let dep = read_if_there(&dir.join("modules.dep"))?.unwrap_or_default();
                dirs.push((dir, dep));
            }
        }
        Ok(System { root: host.root.clone(), dirs })
    }

    /// The operating system's file for `name`, and whether modules.dep knows it.
    pub(super) fn shipped(&self, name: &str) -> Result<Option<(PathBuf, bool)>> {
        if let Some(path) = self.indexed(name) {
            return Ok(Some((path, true)));
        }
        for (dir, _) in &self.dirs {
            for sub in OUT_OF_TREE {
                if let Some(path) = search(&dir.join(sub), name)? {
                    return Ok(Some((path, false)));
                }
            }
        }
        Ok(None)
    }

    /// The file modules.dep has for `name`, if it exists.
    fn indexed(&self, name: &str) -> Option<PathBuf> {
        let files = self.dirs.iter().flat_map(|(dir, dep)| {
            let paths = dep.lines().filter_map(|line| Some(line.split_once(':')?.0));
            paths.filter(|p| name_of_path(p).as_deref() == Some(name)).map(|p| {
                match p.strip_prefix('/') {
                    Some(absolute) => self.root.join(absolute),
                    None => dir.join(p),
                }
            })
        });
        files.into_iter().find(|path| path.exists())
    }

    fn built_in(&self, name: &str) -> Result<bool> {
        for (dir, _) in &self.dirs {
            let list = read_if_there(&dir.join("modules.builtin"))?.unwrap_or_default();
            if list.lines().any(|l| name_of_path(l).as_deref() == Some(name)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) fn find(&self, name: &str) -> Result<Found<Ready>> {
        if let Some(path) = self.indexed(name) {
            return open(path);
        }
        if self.built_in(name)? {
            return Ok(Found::Present);
        }
        let looked: Vec<String> = match self.dirs.as_slice() {
            [] => vec!["/usr/lib/modules (which has no directory for this kernel)".to_owned()],
            dirs => dirs.iter().map(|(d, _)| format!("{}/modules.dep", d.display())).collect(),
        };
        Ok(Found::Absent(looked.join(" or ")))
    }
}

fn open(path: PathBuf) -> Result<Found<Ready>> {
    let shown = || format!("the system's module {}", path.display());
    let mut file = fs::File::open(&path).with_context(shown)?;
    let mut raw = Vec::new();
    file.read_to_end(&mut raw).with_context(shown)?;
    let compressed = crate::compress::Compression::of(&raw).is_some();
    let plain = decompress(&path, raw)?;
    let depends = read_info(&plain).with_context(shown)?.depends();
    Ok(Found::File(Ready { path, file, bytes: compressed.then_some(plain) }, depends))
}

/// The modprobe.d(5) files of this machine, sorted by name; a name in an earlier directory masks
/// the later ones.
pub(super) fn modprobe_files(host: &Host) -> Result<Vec<PathBuf>> {
    let mut files = BTreeMap::new();
    for dir in options::DIRECTORIES {
        let dir = host.path(dir);
        for path in list(&dir)? {
            if path.extension().is_some_and(|e| e == "conf")
                && let Some(name) = path.file_name()
            {
                files.entry(name.to_owned()).or_insert(path);
            }
        }
    }
    Ok(files.into_values().collect())
}

fn search(dir: &Path, name: &str) -> Result<Option<PathBuf>> {
    for path in list(dir)? {
        if path.is_dir() {
            // A link to a directory may lead back; depmod does not follow it either.
            if !path.is_symlink()
                && let Some(found) = search(&path, name)?
            {
                return Ok(Some(found));
            }
        } else if path.exists() && name_of_path(&path.to_string_lossy()).as_deref() == Some(name) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// The sorted entries of a directory; none when it does not exist.
fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        entries => entries.with_context(|| format!("reading {}", dir.display()))?,
    };
    let paths: std::io::Result<Vec<_>> = entries.map(|e| Ok(e?.path())).collect();
    let mut paths = paths.with_context(|| format!("reading {}", dir.display()))?;
    paths.sort();
    Ok(paths)
}

fn read_if_there(path: &Path) -> Result<Option<String>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("reading {}", path.display())),
    }
}

fn same(a: &Path, b: &Path) -> bool {
    match (fs::canonicalize(a), fs::canonicalize(b)) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}
