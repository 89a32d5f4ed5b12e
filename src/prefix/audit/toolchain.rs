//! What a build needs of a prefix: is it there at all?

use std::path::{Path, PathBuf};

use super::findings::Findings;
use super::report::Check;
use super::tree::{Content, Entry, Kind, Place, Tree};
use crate::elf;

/// PATH of the prefix, below EPREFIX.
pub(crate) const SEARCH_PATH: [&str; 4] = ["usr/bin", "bin", "usr/sbin", "sbin"];
/// What is run, and from which package it comes in Gentoo.
const PROGRAMS: [(&str, &str); 11] = [
    ("gcc", "sys-devel/gcc"),
    ("as", "sys-devel/binutils"),
    ("ld", "sys-devel/binutils"),
    ("ar", "sys-devel/binutils"),
    ("objcopy", "sys-devel/binutils"),
    ("make", "dev-build/make"),
    ("sh", "app-shells/bash"),
    ("bash", "app-shells/bash"),
    ("env", "sys-apps/coreutils"),
    ("depmod", "sys-apps/kmod"),
    ("emerge", "sys-apps/portage"),
];
/// gcc's own, not in PATH.
const COMPILER: [&str; 2] = ["cc1", "collect2"];
/// What every program is linked with (crt: C runtime).
const START_FILES: [&str; 3] = ["crt1.o", "crti.o", "crtn.o"];
/// Headers of libc and of the kernel's interface, one for each package.
const HEADERS: [(&str, &str); 3] = [
    ("stdio.h", "sys-libs/glibc"),
    ("features.h", "sys-libs/glibc"),
    ("linux/types.h", "sys-kernel/linux-headers"),
];

/// The program `name` as PATH finds it. The path is that in PATH, not where links lead, since
/// programs with many names (kmod, ccache) look at the one they are called by.
pub(crate) fn program<'t>(tree: &'t Tree, name: &Path) -> Option<(PathBuf, &'t Entry)> {
    SEARCH_PATH.iter().map(|dir| Path::new(dir).join(name)).find_map(|path| {
        let (_, entry) = tree.resolve(&tree.absolute(&path)).here()?;
        runs(entry).then_some((path, entry))
    })
}

/// Whether it can be executed on this machine, as far as its first bytes tell.
fn runs(entry: &Entry) -> bool {
    let content = match &entry.kind {
        Kind::File(Content::Elf(elf)) => matches!(elf.kind, elf::Kind::Program | elf::Kind::Static),
        Kind::File(Content::Script(_)) => true,
        _ => false,
    };
    content && entry.executable()
}

/// Looks for everything that builds need.
pub(super) fn check(found: &mut Findings) {
    let tree = found.tree;
    for (name, package) in PROGRAMS {
        if program(tree, Path::new(name)).is_none() {
            let problem =
                format!("no program {name} that runs on this machine in the prefix's PATH");
            found.error(Check::Missing, &Path::new("usr/bin").join(name), problem, emerge(package));
        }
    }
    let compilers = compiler_dirs(tree);
    for name in COMPILER {
        let there = |dir: &PathBuf| tree.resolve(&tree.absolute(&dir.join(name))).here();
        if !compilers.iter().filter_map(there).any(|(_, entry)| runs(entry)) {
            let place = compilers.first().cloned();
            let place = place.unwrap_or_else(|| PathBuf::from("usr/libexec/gcc"));
            let problem = "the compiler's own part is missing, or does not run on this machine";
            found.error(Check::Missing, &place.join(name), problem, emerge("sys-devel/gcc"));
        }
    }
    start_files(found);
    let include = include_dirs(tree);
    for (name, package) in HEADERS {
        let there = |dir: &PathBuf| tree.resolve(&tree.absolute(&dir.join(name))).here().is_some();
        if !include.iter().any(there) {
            let file = Path::new("usr/include").join(name);
            found.error(Check::Missing, &file, "header is missing", emerge(package));
        }
    }
}

fn start_files(found: &mut Findings) {
    let tree = found.tree;
    let dirs = library_dirs(tree);
    for name in START_FILES {
        let mut there = false;
        for path in dirs.iter().map(|dir| dir.join(name)) {
            if !tree.entries.contains_key(&path) {
                continue;
            }
            let problem = match tree.resolve(&tree.absolute(&path)) {
                Place::Here(_, entry) => match entry.elf().map(|elf| elf.kind) {
                    Some(elf::Kind::Object) => {
                        there = true;
                        continue;
                    }
                    // Of another machine: multilib.
                    Some(elf::Kind::Foreign) => continue,
                    _ => "is no object file".to_owned(),
                },
                Place::Missing(at) => format!("leads nowhere: there is no {}", at.display()),
                Place::Outside(host) => format!("leads to the host's {}", host.display()),
            };
            there = true;
            found.error(Check::Missing, &path, problem, emerge("sys-libs/glibc"));
        }
        if !there {
            let problem = "the C runtime's start file is in no library directory of the prefix";
            let file = Path::new("usr/lib").join(name);
            found.error(Check::Missing, &file, problem, emerge("sys-libs/glibc"));
        }
    }
}

fn emerge(package: &str) -> String {
    format!("provision a complete prefix, or emerge {package} in this one")
}

/// `usr/{lib*,libexec}/gcc/TARGET/VERSION`: gcc's own directories, also where cc1 is missing.
fn compiler_dirs(tree: &Tree) -> Vec<PathBuf> {
    let is_compiler = |path: &Path| {
        let names: Vec<_> = path.iter().map(|name| name.to_string_lossy()).collect();
        match &names[..] {
            [usr, lib, gcc, _, _] => usr == "usr" && lib.starts_with("lib") && gcc == "gcc",
            [lib, gcc, _, _] => lib.starts_with("lib") && gcc == "gcc",
            _ => false,
        }
    };
    directories(tree, is_compiler)
}

/// `{,usr/}lib*` and the directories in them that a multiarch or multilib libc uses.
fn library_dirs(tree: &Tree) -> Vec<PathBuf> {
    directories(tree, |path| {
        let path = path.strip_prefix("usr").unwrap_or(path);
        let mut names = path.iter();
        let lib = names.next().is_some_and(|name| name.to_string_lossy().starts_with("lib"));
        lib && names.next().is_none_or(|name| name.to_string_lossy().contains("-linux-"))
            && names.next().is_none()
    })
}

/// `usr/include` and, for multiarch, its subdirectory for the target.
fn include_dirs(tree: &Tree) -> Vec<PathBuf> {
    directories(tree, |path| match path.strip_prefix("usr/include") {
        Ok(below) => {
            let mut names = below.iter();
            names.next().is_none_or(|name| name.to_string_lossy().contains("-linux-"))
                && names.next().is_none()
        }
        Err(_) => false,
    })
}

fn directories(tree: &Tree, wanted: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
    let directory = |(_, entry): &(&PathBuf, &Entry)| matches!(entry.kind, Kind::Directory);
    let mut dirs: Vec<PathBuf> = tree
        .entries
        .iter()
        .filter(directory)
        .map(|(path, _)| path.clone())
        .filter(|path| wanted(path))
        .collect();
    dirs.sort();
    dirs
}
