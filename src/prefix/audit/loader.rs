//! How ld.so(8) finds libraries: DT_RPATH of the file and of those that loaded it, DT_RUNPATH, the
//! directories of its cache, the directories built into it. LD_LIBRARY_PATH is never set in a
//! build.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::tree::{Entry, Place, Tree};
use crate::elf::{Elf, Kind};

/// No interpreter is larger; glibc's has 0.2 MB.
const MAX_INTERPRETER: u64 = 16 << 20;
/// More libraries than any program has.
const MAX_LOADED: usize = 1000;
/// ld.so.conf and what it includes.
const MAX_CONF_FILES: usize = 200;
const MAX_CONF: u64 = 1 << 20;

/// Where an interpreter looks beside run paths.
#[derive(Clone, Debug, Default)]
pub(super) struct Defaults {
    /// Directories inside the prefix, in the order they are searched.
    pub inside: Vec<PathBuf>,
    /// Directories and the cache of the host's that it would search too.
    pub outside: Vec<PathBuf>,
}

impl Defaults {
    /// The defaults of the interpreter at `path`, read out of its own bytes: directories end with
    /// a slash there, the cache is called ld.so.cache.
    pub(super) fn of(tree: &Tree, path: &Path) -> Defaults {
        let mut defaults = Defaults::default();
        let Ok(bytes) = tree.read(path, MAX_INTERPRETER) else { return defaults };
        let mut built_in = Vec::new();
        for text in bytes.split(|byte| *byte == 0).filter(|text| text.starts_with(b"/")) {
            let path = Path::new(OsStr::from_bytes(text));
            let directory = text.ends_with(b"/") && path.iter().any(starts_with_lib);
            let cache = text.ends_with(b"/ld.so.cache");
            match (directory || cache, tree.relative(path)) {
                (false, _) => {}
                (true, None) => defaults.outside.push(path.components().collect()),
                (true, Some(_)) if directory => built_in.push(path.to_owned()),
                // ldconfig(8) fills the cache from the directories in ld.so.conf.
                (true, Some(_)) if tree.resolve(path).here().is_some() => {
                    defaults.inside.extend(conf_dirs(tree));
                }
                (true, Some(_)) => {}
            }
        }
        defaults.inside.append(&mut built_in);
        defaults.outside.sort();
        defaults.outside.dedup();
        defaults
    }
}

fn starts_with_lib(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b"lib")
}

/// The directories of etc/ld.so.conf and the files that it includes. Of patterns, only
/// `DIRECTORY/*.conf` is known.
fn conf_dirs(tree: &Tree) -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    let mut files = vec![tree.eprefix.join("etc/ld.so.conf")];
    let mut next = 0;
    while let Some(file) = files.get(next).cloned().filter(|_| next < MAX_CONF_FILES) {
        next += 1;
        let Place::Here(path, _) = tree.resolve(&file) else { continue };
        let Ok(text) = tree.read(&path, MAX_CONF) else { continue };
        let text = String::from_utf8_lossy(&text);
        for line in text.lines().map(|line| line.split('#').next().unwrap_or("").trim()) {
            match line.strip_prefix("include ") {
                Some(pattern) => files.extend(included(tree, &file, pattern.trim())),
                None if line.starts_with('/') => dirs.push(PathBuf::from(line)),
                None => {}
            }
        }
    }
    dirs
}

fn included(tree: &Tree, file: &Path, pattern: &str) -> Vec<PathBuf> {
    let pattern = file.parent().unwrap_or(file).join(pattern);
    let Some(suffix) =
        pattern.file_name().and_then(OsStr::to_str).and_then(|n| n.strip_prefix('*'))
    else {
        return vec![pattern];
    };
    let Some((dir, _)) = pattern.parent().and_then(|dir| tree.resolve(dir).here()) else {
        return vec![];
    };
    let of_it =
        |path: &&PathBuf| path.parent() == Some(&dir) && path.to_string_lossy().ends_with(suffix);
    let mut files: Vec<PathBuf> =
        tree.entries.keys().filter(of_it).map(|path| tree.absolute(path)).collect();
    files.sort();
    files
}

/// A library that was not found.
#[derive(Debug)]
pub(super) struct Unfound {
    /// The file that needs it.
    pub by: PathBuf,
    /// The library's name.
    pub name: PathBuf,
    /// Where it was looked for.
    pub searched: Vec<PathBuf>,
}

/// A file that is mapped, and the file that loaded it.
struct Loaded<'t> {
    path: PathBuf,
    elf: &'t Elf,
    loader: Option<usize>,
}

/// Finds libraries as one interpreter does.
pub(super) struct Loader<'t> {
    pub tree: &'t Tree,
    pub defaults: Defaults,
    /// Run paths that any program may have been started with, for a library by itself.
    pub inherited: Vec<PathBuf>,
}

impl<'t> Loader<'t> {
    /// Goes through everything that is mapped when `path` is started, or loaded with dlopen(3).
    /// Names in `present` need no looking up. The libraries that were found go into `seen`.
    pub(super) fn load(
        &self,
        path: &Path,
        elf: &'t Elf,
        present: &[PathBuf],
        seen: &mut HashSet<PathBuf>,
    ) -> Vec<Unfound> {
        let mut names: HashSet<PathBuf> = present.iter().cloned().collect();
        let mut loaded = vec![Loaded { path: path.to_owned(), elf, loader: None }];
        let mut unfound = Vec::new();
        let mut next = 0;
        while next < loaded.len().min(MAX_LOADED) {
            for name in &loaded[next].elf.needed {
                if !names.insert(name.clone()) {
                    continue;
                }
                let searched = self.search_path(&loaded, next);
                match self.find(&searched, name) {
                    Some((path, elf)) => {
                        names.extend(elf.soname.clone());
                        seen.insert(path.clone());
                        loaded.push(Loaded { path, elf, loader: Some(next) });
                    }
                    None => {
                        let by = loaded[next].path.clone();
                        unfound.push(Unfound { by, name: name.clone(), searched });
                    }
                }
            }
            next += 1;
        }
        unfound
    }

    /// The directories for what the file `of` needs, in order.
    fn search_path(&self, loaded: &[Loaded], of: usize) -> Vec<PathBuf> {
        let mut dirs = Vec::new();
        let own = loaded[of].elf;
        // For this file, DT_RUNPATH puts the DT_RPATH of all loaders out of force.
        if own.runpath.is_empty() {
            let mut file = Some(of);
            while let Some(index) = file {
                let Loaded { path, elf, loader } = &loaded[index];
                if elf.runpath.is_empty() {
                    dirs.extend(expand(self.tree, path, &elf.rpath));
                }
                file = *loader;
            }
        }
        dirs.extend(self.inherited.iter().cloned());
        dirs.extend(expand(self.tree, &loaded[of].path, &own.runpath));
        dirs.extend(self.defaults.inside.iter().cloned());
        dirs
    }

    fn find(&self, dirs: &[PathBuf], name: &Path) -> Option<(PathBuf, &'t Elf)> {
        let library = |path: &Path| {
            let (path, entry): (PathBuf, &'t Entry) = self.tree.resolve(path).here()?;
            // ld.so passes over the others too: wrong class or machine.
            entry.elf().filter(|elf| elf.kind == Kind::Library).map(|elf| (path, elf))
        };
        if name.is_absolute() {
            library(name)
        } else {
            dirs.iter().find_map(|dir| library(&dir.join(name)))
        }
    }
}

/// The run path of the file at `path`, with $ORIGIN, $LIB and $PLATFORM in place ("Dynamic string
/// tokens" in ld.so(8)).
pub(super) fn expand(tree: &Tree, path: &Path, run_path: &[PathBuf]) -> Vec<PathBuf> {
    let absolute = tree.absolute(path);
    let origin = absolute.parent().unwrap_or(&absolute).as_os_str().as_bytes();
    let mut dirs = Vec::new();
    for entry in run_path {
        let text = entry.as_os_str().as_bytes();
        if !text.contains(&b'$') {
            dirs.push(entry.clone());
            continue;
        }
        let libs: &[&[u8]] = if contains(text, b"LIB") {
            &[b"lib64", b"lib", b"lib/x86_64-linux-gnu", b"lib/aarch64-linux-gnu"]
        } else {
            &[b""]
        };
        for lib in libs {
            let tokens: HashMap<&[u8], &[u8]> = HashMap::from([
                (&b"ORIGIN"[..], origin),
                (b"LIB", lib),
                (b"PLATFORM", std::env::consts::ARCH.as_bytes()),
            ]);
            dirs.push(PathBuf::from(std::ffi::OsString::from_vec(replace(text, &tokens))));
        }
    }
    dirs
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window == word)
}

/// `$NAME` and `${NAME}` replaced; unknown ones stay.
fn replace(text: &[u8], tokens: &HashMap<&[u8], &[u8]>) -> Vec<u8> {
    let mut all = Vec::new();
    let mut rest = text;
    'text: while let Some((&first, after)) = rest.split_first() {
        if first == b'$' {
            for (name, value) in tokens {
                let braced = [b"{", *name, b"}"].concat();
                for token in [*name, &braced[..]] {
                    if let Some(after) = after.strip_prefix(token) {
                        all.extend_from_slice(value);
                        rest = after;
                        continue 'text;
                    }
                }
            }
        }
        all.push(first);
        rest = after;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dynamic_string_tokens_are_replaced_with_and_without_braces() {
        let tokens: HashMap<&[u8], &[u8]> =
            HashMap::from([(&b"ORIGIN"[..], &b"/e/bin"[..]), (b"LIB", b"lib64")]);
        for (text, want) in [
            ("$ORIGIN/../$LIB", "/e/bin/../lib64"),
            ("${ORIGIN}/x", "/e/bin/x"),
            ("/a/$OTHER/b$", "/a/$OTHER/b$"),
        ] {
            let found = replace(text.as_bytes(), &tokens);
            assert_eq!(String::from_utf8(found).unwrap(), want, "{text}");
        }
    }
}
