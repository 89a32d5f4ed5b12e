//! Interpreters, run paths and needed libraries of all ELF files.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::findings::{Findings, not_run};
use super::loader::{Defaults, Loader, Unfound, expand};
use super::report::Check;
use super::toolchain;
use super::tree::{Entry, Place, Tree};
use crate::elf::{Elf, Kind};
use crate::host::Host;

/// Checks every ELF file. Returns how many there are.
pub(super) fn check(found: &mut Findings, host: &Host) -> usize {
    let tree = found.tree;
    let count = tree.entries.values().filter(|entry| entry.elf().is_some()).count();
    let elves = elves(tree);
    for (path, elf) in &elves {
        run_path(found, path, elf);
    }
    let (mut seen, inherited, mut defaults) = programs(found, host, &elves);
    // A library that no program needs is loaded with dlopen(3), by a program that we do not know.
    let Some(defaults) = defaults.pop() else { return count };
    let loader = Loader { tree, defaults, inherited };
    let interpreters = interpreter_names(tree);
    for (path, elf) in elves.iter().filter(|(_, elf)| elf.kind == Kind::Library) {
        if !seen.contains(*path) {
            let unfound = loader.load(path, elf, &interpreters, &mut seen);
            unfound.into_iter().for_each(|unfound| missing(found, unfound));
        }
    }
    count
}

/// Programs that can be run, and libraries. They are sorted by path, so that two audits report the
/// same.
fn elves(tree: &Tree) -> BTreeMap<&Path, &Elf> {
    let wanted = |path: &Path, entry: &Entry, elf: &Elf| match elf.kind {
        Kind::Program => entry.executable() && !not_run(path),
        Kind::Library => !not_run(path),
        _ => false,
    };
    let elves = tree.entries.iter().filter_map(|(path, entry)| Some((path, entry, entry.elf()?)));
    let elves = elves.filter(|(path, entry, elf)| wanted(path, entry, elf));
    elves.map(|(path, _, elf)| (path.as_path(), elf)).collect()
}

/// DT_RPATH and DT_RUNPATH may have no directory of the host, and none that depends on the working
/// directory.
fn run_path(found: &mut Findings, path: &Path, elf: &Elf) {
    let tree = found.tree;
    for (tag, dirs) in [("DT_RPATH", &elf.rpath), ("DT_RUNPATH", &elf.runpath)] {
        for dir in expand(tree, path, dirs) {
            let problem = match tree.resolve(&dir) {
                _ if !dir.is_absolute() => {
                    format!("{tag} has {dir:?}, which depends on the working directory")
                }
                Place::Outside(host) => {
                    format!("{tag} has {}, which is the host's {}", dir.display(), host.display())
                }
                Place::Here(..) | Place::Missing(_) => continue,
            };
            let cure = format!(
                "patchelf --set-rpath DIRECTORIES-OF-THE-PREFIX {0}, or --remove-rpath {0}",
                found.shown(path)
            );
            found.error(Check::RunPath, path, problem, cure);
        }
    }
}

/// Loads every program. Returns the libraries that were seen, all run paths that libraries inherit,
/// and the defaults of the interpreters, the one most used last.
fn programs(
    found: &mut Findings,
    host: &Host,
    elves: &BTreeMap<&Path, &Elf>,
) -> (HashSet<PathBuf>, Vec<PathBuf>, Vec<Defaults>) {
    let tree = found.tree;
    let mut seen = HashSet::new();
    let mut inherited: HashMap<PathBuf, usize> = HashMap::new();
    let mut loaders: HashMap<PathBuf, (usize, Loader)> = HashMap::new();
    for (path, elf) in elves.iter().filter(|(_, elf)| elf.kind == Kind::Program) {
        let Some(interpreter) = interpreter(found, path, elf) else { continue };
        let rpath = if elf.runpath.is_empty() { &elf.rpath[..] } else { &[] };
        for dir in expand(tree, path, rpath) {
            *inherited.entry(dir).or_default() += 1;
        }
        let (uses, loader) = loaders.entry(interpreter.clone()).or_insert_with(|| {
            let defaults = search_path(found, host, &interpreter);
            (0, Loader { tree, defaults, inherited: vec![] })
        });
        *uses += 1;
        let present = names(tree, &interpreter);
        let unfound = loader.load(path, elf, &present, &mut seen);
        unfound.into_iter().for_each(|unfound| missing(found, unfound));
    }
    let mut inherited: Vec<(PathBuf, usize)> = inherited.into_iter().collect();
    inherited.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let mut loaders: Vec<(usize, Defaults)> =
        loaders.into_values().map(|(uses, loader)| (uses, loader.defaults)).collect();
    loaders.sort_by_key(|(uses, _)| *uses);
    let inherited = inherited.into_iter().map(|(dir, _)| dir).collect();
    (seen, inherited, loaders.into_iter().map(|(_, defaults)| defaults).collect())
}

/// Checks the interpreter of a program. Returns its path in the tree.
fn interpreter(found: &mut Findings, path: &Path, elf: &Elf) -> Option<PathBuf> {
    let tree = found.tree;
    let wanted = elf.interpreter.as_ref()?;
    let problem = match tree.resolve(wanted) {
        Place::Here(at, entry) => {
            let library = entry.elf().is_some_and(|elf| elf.kind == Kind::Library);
            if library && entry.executable() {
                return Some(at);
            }
            format!("its interpreter {} is no executable ELF interpreter", wanted.display())
        }
        Place::Missing(at) => format!("its interpreter {} is not there", at.display()),
        Place::Outside(_) => format!("its interpreter is the host's {}", wanted.display()),
    };
    let cure = match usual_interpreter(tree) {
        Some(usual) => {
            format!("patchelf --set-interpreter {} {}", usual.display(), found.shown(path))
        }
        None => "provision a prefix that has an ELF interpreter of its own".to_owned(),
    };
    found.error(Check::Interpreter, path, problem, cure);
    None
}

/// The interpreter that the prefix's own bash, or another program of its PATH, has in it.
pub(crate) fn usual_interpreter(tree: &Tree) -> Option<PathBuf> {
    let of = |name: &str| {
        let (_, entry) = toolchain::program(tree, Path::new(name))?;
        let interpreter = entry.elf()?.interpreter.clone()?;
        tree.resolve(&interpreter).here().map(|_| interpreter)
    };
    ["bash", "sh", "make", "gcc", "ld"].into_iter().find_map(of)
}

/// All that a program has mapped when it is started, its interpreter left out.
pub(crate) fn mapped_with(tree: &Tree, program: &Path) -> HashSet<PathBuf> {
    let mut seen = HashSet::new();
    let elf = tree.resolve(&tree.absolute(program)).here().and_then(|(_, entry)| entry.elf());
    let interpreter = elf.and_then(|elf| tree.resolve(elf.interpreter.as_ref()?).here());
    if let (Some(elf), Some((interpreter, _))) = (elf, interpreter) {
        let defaults = Defaults::of(tree, &interpreter);
        let loader = Loader { tree, defaults, inherited: vec![] };
        drop(loader.load(program, elf, &names(tree, &interpreter), &mut seen));
    }
    seen
}

/// The search directories of an interpreter. Warns of those that are the host's.
fn search_path(found: &mut Findings, host: &Host, interpreter: &Path) -> Defaults {
    let mut defaults = Defaults::of(found.tree, interpreter);
    // A name that no host has at the top was put there so that nothing is found.
    let top = |dir: &Path| dir.iter().take(2).collect::<PathBuf>();
    defaults.outside.retain(|dir| host.path(top(dir)).exists());
    if !defaults.outside.is_empty() {
        let dirs: Vec<_> = defaults.outside.iter().map(|dir| dir.display().to_string()).collect();
        let problem = format!("looks for libraries in the host's {} too", dirs.join(", "));
        let cure = "use an interpreter made for this prefix; until then a library that is missing here, or that dlopen(3) asks for, is taken from the host";
        found.warning(Check::SearchPath, interpreter, problem, cure);
    }
    defaults
}

/// The names under which the interpreter itself is present in each of its programs.
fn names(tree: &Tree, interpreter: &Path) -> Vec<PathBuf> {
    let soname = tree.entries.get(interpreter).and_then(Entry::elf);
    let soname = soname.and_then(|elf| elf.soname.clone());
    soname.into_iter().chain(interpreter.file_name().map(PathBuf::from)).collect()
}

/// The same for a library by itself: whatever programs name as their interpreter.
fn interpreter_names(tree: &Tree) -> Vec<PathBuf> {
    let interpreter = usual_interpreter(tree).and_then(|path| tree.resolve(&path).here());
    interpreter.map(|(path, _)| names(tree, &path)).unwrap_or_default()
}

fn missing(found: &mut Findings, unfound: Unfound) {
    let inside = unfound.searched.iter().filter(|dir| found.tree.relative(dir).is_some());
    let mut searched: Vec<String> = inside.map(|dir| dir.display().to_string()).collect();
    let mut once = HashSet::new();
    searched.retain(|dir| once.insert(dir.clone()));
    let searched = if searched.is_empty() {
        "it has no run path, and its interpreter no directory in the prefix".to_owned()
    } else {
        format!("looked in {}", searched.join(", "))
    };
    let problem =
        format!("needs {}, which is not in the prefix ({searched})", unfound.name.display());
    let cure = "put the library into one of these directories, or patchelf --force-rpath --set-rpath the directory it is in";
    found.error(Check::Library, &unfound.by, problem, cure);
}
