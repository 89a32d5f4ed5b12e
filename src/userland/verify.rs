//! Checks the staged programs before anything of them is published: if root runs them, are only
//! root's files run?

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::harvest::is_interpreter;
use super::symbols::Versions;
use super::{DIR, LIBRARIES, interpreter, run_path, version};
use crate::elf::{Elf, Kind};
use crate::exit::{Exit, WithExit};
use crate::{fail, store};

/// Every system has these, and they belong to root there.
const SHELLS: [&str; 4] = ["/bin/sh", "/bin/bash", "/usr/bin/sh", "/usr/bin/bash"];
/// The programs that units, rules and commands lead to (units/openzfs). Without them there is no
/// userland.
const PROGRAMS: [&str; 10] = [
    "bin/zvol_wait",
    "lib/udev/vdev_id",
    "lib/udev/zvol_id",
    "sbin/mount.zfs",
    "sbin/zdb",
    "sbin/zed",
    "sbin/zfs",
    "sbin/zgenhostid",
    "sbin/zpool",
    "sbin/zstream",
];
/// The most problems in one message.
const MOST: usize = 20;

/// Checks `userland/` of the staged tree `tree`. No path of `owners` may stand in it. Its version
/// must agree with that of the `modules`. Returns its version, as libzfs says it.
///
/// # Errors
/// [`Exit::Refused`], naming each file and what is wrong with it.
pub fn verify(tree: &Path, owners: &[PathBuf], modules: &str) -> Result<String> {
    let dir = tree.join(DIR);
    let mut problems = Vec::new();
    let (mut elves, mut symbols) = (BTreeMap::new(), BTreeMap::new());
    let mut found = None;
    let entries = store::entries(&dir).exit(Exit::Refused)?;
    for path in entries.iter().map(|entry| PathBuf::from(&entry.path)) {
        let file = File::open(dir.join(&path)).with_context(|| format!("{}", path.display()))?;
        let bytes = fs::read(dir.join(&path)).with_context(|| format!("{}", path.display()))?;
        let mut add = |problem: String| problems.push(format!("{}: {problem}", path.display()));
        let mode = file.metadata().with_context(|| format!("{}", path.display()))?.mode() & 0o7777;
        if mode != 0o644 && mode != 0o755 {
            add(format!("mode {mode:04o}, expected 0644 or 0755"));
        }
        owners.iter().filter_map(|owner| names(&bytes, owner)).for_each(&mut add);
        match Elf::open(&file) {
            Ok(Some(elf)) => {
                if is_libzfs(&path) {
                    found = version::in_bytes(&bytes).map(str::to_owned);
                }
                if matches!(elf.kind, Kind::Program | Kind::Library) {
                    match Versions::read(&bytes) {
                        Ok(versions) => drop(symbols.insert(path.clone(), versions)),
                        Err(error) => add(format!("{error:#}")),
                    }
                }
                elves.insert(path, elf);
            }
            Ok(None) => script(&bytes).into_iter().for_each(add),
            Err(error) => add(format!("{error:#}")),
        }
    }
    for (path, elf) in &elves {
        let wrong = check(path, elf, &elves);
        problems.extend(wrong.into_iter().map(|problem| format!("{}: {problem}", path.display())));
    }
    for (path, versions) in &symbols {
        let missing = versions.missing(&symbols);
        problems.extend(missing.into_iter().map(|needs| format!("{}: {needs}", path.display())));
    }
    let there = |name: &str| entries.iter().any(|entry| entry.path == name && entry.executable);
    let missing = PROGRAMS.iter().filter(|name| !there(name));
    problems.extend(missing.map(|name| format!("{name}: there is no such program")));
    refuse(problems)?;
    let found = found.context("no libzfs says its version").exit(Exit::Refused)?;
    if !version::agree(&found, modules) {
        fail!(
            Exit::Refused,
            "the programs that were built are of OpenZFS {found}, the modules of {modules}; nothing was published"
        );
    }
    Ok(found)
}

fn refuse(mut problems: Vec<String>) -> Result<()> {
    if problems.is_empty() {
        return Ok(());
    }
    let more = problems.len().saturating_sub(MOST);
    problems.truncate(MOST);
    let more = if more > 0 { format!("\n  and {more} more") } else { String::new() };
    fail!(
        Exit::Refused,
        "OpenZFS's programs, as they were built, cannot be published: they are incomplete, or would have root run what is not root's:\n  {}{more}",
        problems.join("\n  ")
    );
}

fn is_libzfs(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_bytes();
    path.parent() == Some(Path::new(LIBRARIES)) && name.starts_with(b"libzfs.so.")
}

/// Where the bytes have the path `owner`, a directory of the prefix's owner.
fn names(bytes: &[u8], owner: &Path) -> Option<String> {
    let at = memchr::memmem::find(bytes, owner.as_os_str().as_bytes())?;
    Some(format!("has {} in it, at byte {at}", owner.display()))
}

/// What is wrong with the first line of a script.
fn script(bytes: &[u8]) -> Option<String> {
    let line = bytes.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let line = String::from_utf8_lossy(line);
    let mut words = line.split_ascii_whitespace();
    let program = words.next().unwrap_or_default();
    let through_env = program == "/usr/bin/env"
        && words.next().is_some_and(|word| ["sh", "bash", "awk"].contains(&word));
    let known = through_env || SHELLS.contains(&program);
    (!known).then(|| {
        format!("is run by {program:?}, which does not exist as root's file on every system")
    })
}

/// What is wrong with how an ELF file is loaded, or with what it loads.
fn check(path: &Path, elf: &Elf, all: &BTreeMap<PathBuf, Elf>) -> Vec<String> {
    let mut problems = Vec::new();
    match elf.kind {
        Kind::Program => problems.extend(program(path, elf, all)),
        Kind::Library => {
            if path.parent() != Some(Path::new(LIBRARIES)) {
                problems.push(format!("a library outside {LIBRARIES}"));
            }
            for (tag, dirs) in [("DT_RPATH", &elf.rpath), ("DT_RUNPATH", &elf.runpath)] {
                if !dirs.is_empty() {
                    problems
                        .push(format!("{tag} {dirs:?}, expected none: that of the program counts"));
                }
            }
        }
        // zgenhostid and similar programs could be static. They load nothing.
        Kind::Static => {}
        Kind::Object | Kind::Foreign => {
            problems.push("neither a program nor a library of this machine".to_owned());
        }
    }
    if !elf.besides.is_empty() {
        problems.push(format!("has ld.so load {:?} too (an auditor or filter)", elf.besides));
    }
    for name in &elf.needed {
        let plain = name.components().count() == 1 && name.file_name().is_some();
        let there = all.get(&Path::new(LIBRARIES).join(name));
        let right = there.is_some_and(|found| {
            found.kind == Kind::Library && found.soname.as_deref() == Some(name)
        });
        if !plain || !right {
            problems
                .push(format!("needs {}, which is not among what is published", name.display()));
        }
    }
    problems
}

/// What differs in a program: its interpreter and run path must be exactly ours.
fn program(path: &Path, elf: &Elf, all: &BTreeMap<PathBuf, Elf>) -> Vec<String> {
    let mut problems = Vec::new();
    let named = elf.interpreter.as_deref().unwrap_or(Path::new(""));
    let expected = interpreter(named.file_name().unwrap_or_default());
    let there = Path::new(LIBRARIES).join(named.file_name().unwrap_or_default());
    if named != expected || !all.get(&there).is_some_and(is_interpreter) {
        problems.push(format!("its interpreter is {}, not one of its own", named.display()));
    }
    let run_path = run_path(path);
    if elf.rpath != [run_path.clone()] || !elf.runpath.is_empty() {
        problems.push(format!(
            "its run path is {:?} (DT_RPATH) and {:?} (DT_RUNPATH), expected {} and none",
            elf.rpath,
            elf.runpath,
            run_path.display()
        ));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn library(name: &str, needed: &[&str]) -> (PathBuf, Elf) {
        let needed = needed.iter().map(PathBuf::from).collect();
        let elf = Elf { soname: Some(name.into()), needed, ..Elf::bare(Kind::Library) };
        (Path::new("lib").join(name), elf)
    }

    fn zpool() -> Elf {
        Elf {
            interpreter: Some("/run/zfs-prefix/active/userland/lib/ld-linux.so.2".into()),
            rpath: vec!["$ORIGIN/../lib".into()],
            needed: vec!["libzfs.so.6".into(), "libc.so.6".into()],
            ..Elf::bare(Kind::Program)
        }
    }

    #[test]
    fn what_would_load_a_file_of_somebody_elses_is_a_problem_and_what_is_bound_is_none() {
        let all: BTreeMap<PathBuf, Elf> = [
            library("libzfs.so.6", &["libc.so.6"]),
            library("libc.so.6", &["ld-linux.so.2"]),
            library("ld-linux.so.2", &[]),
            library("libevil.so", &[]),
        ]
        .into_iter()
        .collect();
        let path = Path::new("sbin/zpool");
        assert_eq!(check(path, &zpool(), &all), [""; 0]);
        for (name, elf) in &all {
            assert_eq!(check(name, elf, &all), [""; 0], "{}", name.display());
        }
        type Change = fn(&mut Elf);
        let changes: [(&str, Change, &str); 12] = [
            (
                "the prefix's interpreter",
                |e| e.interpreter = Some("/p/ld-linux.so.2".into()),
                "/p/ld",
            ),
            (
                "an interpreter that is none",
                |e| {
                    e.interpreter = Some("/run/zfs-prefix/active/userland/lib/libzfs.so.6".into());
                },
                "libzfs.so.6",
            ),
            (
                "one that is not there",
                |e| {
                    e.interpreter = Some("/run/zfs-prefix/active/userland/lib/ld-x.so.2".into());
                },
                "ld-x.so.2",
            ),
            (
                "one above",
                |e| {
                    e.interpreter =
                        Some("/run/zfs-prefix/active/userland/lib/../ld-linux.so.2".into());
                },
                "its interpreter",
            ),
            ("a run path of the prefix's", |e| e.rpath.push("/p/lib".into()), "/p/lib"),
            ("none", |e| e.rpath.clear(), "its run path"),
            ("DT_RUNPATH", |e| e.runpath = vec!["$ORIGIN/../lib".into()], "DT_RUNPATH"),
            ("a library of the system's", |e| e.needed.push("libcurl.so.4".into()), "libcurl"),
            ("one by its path", |e| e.needed.push("/p/libc.so.6".into()), "/p/libc.so.6"),
            (
                "one in another directory",
                |e| e.needed.push("../lib/libc.so.6".into()),
                "needs ../lib",
            ),
            ("an auditor", |e| e.besides.push("libevil.so".into()), "auditor"),
            ("another machine", |e| e.kind = Kind::Foreign, "this machine"),
        ];
        for (case, change, says) in changes {
            let mut elf = zpool();
            change(&mut elf);
            let found = check(path, &elf, &all).join("; ");
            assert!(found.contains(says), "{case}: {found:?}");
        }
        let mut lib = all[Path::new("lib/libzfs.so.6")].clone();
        lib.runpath = vec!["/p".into()];
        assert!(check(Path::new("lib/libzfs.so.6"), &lib, &all)[0].contains("DT_RUNPATH"));
        let misnamed =
            check(Path::new("sbin/libzfs.so.6"), &all[Path::new("lib/libevil.so")], &all);
        assert!(misnamed[0].contains("outside"), "{misnamed:?}");
    }

    #[test]
    fn scripts_are_run_by_the_systems_shell_and_by_nothing_of_the_prefix() {
        for (text, good) in [
            ("#!/bin/sh\n", true),
            ("#! /bin/bash -e\n", true),
            ("#!/usr/bin/env bash\n", true),
            ("text\n", true),
            ("", true),
            ("#!/home/core/gentoo/bin/bash\n", false),
            ("#!/usr/bin/env python3\n", false),
            ("#!/usr/bin/env\n", false),
            ("#!bin/sh\n", false),
            ("#!\n", false),
        ] {
            assert_eq!(script(text.as_bytes()).is_none(), good, "{text:?}");
        }
    }

    #[test]
    fn a_path_of_the_owners_anywhere_is_named_with_its_place() {
        let found = names(b"abc /home/core/gentoo/x", Path::new("/home/core/gentoo")).unwrap();
        assert_eq!(found, "has /home/core/gentoo in it, at byte 4");
        assert_eq!(names(b"/home/core/gento", Path::new("/home/core/gentoo")), None);
    }
}
