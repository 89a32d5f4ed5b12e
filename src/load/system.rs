//! The operating system's own modules, as modprobe(8) finds them.

use std::cell::OnceCell;
use std::fs;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::Ready;
use crate::host::links::{End, Way, follow};
use crate::host::{Host, Release};
use crate::module::{Found, decompress, name_of_path, read_info};

/// Where out-of-tree modules are (depmod.d(5)'s usual search order; DKMS, akmods, weak-modules).
const OUT_OF_TREE: [&str; 3] = ["updates", "extra", "weak-updates"];

/// The module directories of one kernel, with their modules.dep.
pub(super) struct System<'a> {
    pub(super) host: &'a Host,
    pub(super) release: Release,
    /// Paths of the machine.
    dirs: Vec<(PathBuf, String)>,
    /// [`System::own_vermagic`], once it was asked for.
    pub(super) vermagic: OnceCell<Option<String>>,
}

impl<'a> System<'a> {
    /// The module directories of kernel `release`.
    pub(super) fn of(host: &'a Host, release: &Release) -> Result<System<'a>> {
        let mut dirs: Vec<(PathBuf, String)> = Vec::new();
        for base in ["/usr/lib/modules", "/lib/modules"] {
            let dir = Path::new(base).join(release.as_str());
            let here = host.path(&dir);
            // /lib is a link to usr/lib on most systems.
            let known = |d: &Path| dirs.iter().any(|(k, _)| same(&host.path(k), d));
            if here.is_dir() && !known(&here) {
                let dep = read_if_there(&here.join("modules.dep"))?.unwrap_or_default();
                dirs.push((dir, dep));
            }
        }
        Ok(System { host, release: release.clone(), dirs, vermagic: OnceCell::new() })
    }

    /// The files that modules.dep has for `name`, whatever they are; paths of the machine.
    pub(super) fn indexed(&self, name: &str) -> Vec<PathBuf> {
        let lines = self.lines().filter(|(_, path)| named(path, name));
        // An absolute path stays what it is.
        lines.map(|(dir, path)| dir.join(path)).collect()
    }

    /// The files of the kernel's own modules that modules.dep has; paths of the machine.
    pub(super) fn own(&self) -> impl Iterator<Item = PathBuf> {
        let lines = self.lines().filter(|(_, path)| path.starts_with("kernel/"));
        lines.map(|(dir, path)| dir.join(path))
    }

    /// Of each line of modules.dep, its directory and its file.
    fn lines(&self) -> impl Iterator<Item = (&Path, &str)> {
        self.dirs.iter().flat_map(|(dir, dep)| {
            dep.lines().filter_map(move |line| Some((dir.as_path(), line.split_once(':')?.0)))
        })
    }

    /// The files of out-of-tree modules with this name, whether modules.dep has them or not.
    ///
    /// # Errors
    /// A directory cannot be read.
    pub(super) fn out_of_tree(&self, name: &str) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for (dir, _) in &self.dirs {
            for sub in OUT_OF_TREE {
                self.search(&dir.join(sub), name, &mut found)?;
            }
        }
        Ok(found)
    }

    fn search(&self, dir: &Path, name: &str, found: &mut Vec<PathBuf>) -> Result<()> {
        for file in list(&self.host.path(dir))? {
            let path = dir.join(file.file_name().unwrap_or_default());
            // A link to a directory may lead back; depmod does not follow it either.
            if file.is_dir() {
                if !file.is_symlink() {
                    self.search(&path, name, found)?;
                }
            } else if named(&path.to_string_lossy(), name) {
                found.push(path);
            }
        }
        Ok(())
    }

    pub(super) fn built_in(&self, name: &str) -> Result<bool> {
        for (dir, _) in &self.dirs {
            let list = read_if_there(&self.host.path(dir).join("modules.builtin"))?;
            if list.unwrap_or_default().lines().any(|line| named(line, name)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Where `path` leads to, through all links.
    pub(super) fn end_of(&self, path: &Path) -> Way {
        follow(self.host, path, |_| false)
    }

    /// A module that a published one depends on.
    pub(super) fn find(&self, name: &str) -> Result<Found<Ready>> {
        let there = |path: &PathBuf| matches!(self.end_of(path).end, End::Here(_));
        if let Some(path) = self.indexed(name).into_iter().find(there) {
            return open(self.host.path(self.end_of(&path).path));
        }
        if self.built_in(name)? {
            return Ok(Found::Present);
        }
        let looked: Vec<String> = match self.dirs.as_slice() {
            [] => vec!["/usr/lib/modules (which has no directory for this kernel)".to_owned()],
            dirs => {
                let paths = dirs.iter().map(|(dir, _)| self.host.path(dir).join("modules.dep"));
                paths.map(|path| path.display().to_string()).collect()
            }
        };
        Ok(Found::Absent(looked.join(" or ")))
    }
}

fn named(path: &str, name: &str) -> bool {
    name_of_path(path).as_deref() == Some(name)
}

fn open(path: PathBuf) -> Result<Found<Ready>> {
    let shown = || format!("the system's module {}", path.display());
    let mut file = fs::File::open(&path).with_context(shown)?;
    let mut raw = Vec::new();
    file.read_to_end(&mut raw).with_context(shown)?;
    let compressed = crate::compress::Compression::of(&raw).is_some();
    let plain = decompress(&path, raw)?;
    let depends = read_info(&plain).with_context(shown)?.depends();
    let bytes = compressed.then_some(plain);
    Ok(Found::File(Ready { path, file, bytes, published: false }, depends))
}

/// The sorted entries of a directory; none when it does not exist.
pub(super) fn list(dir: &Path) -> Result<Vec<PathBuf>> {
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
