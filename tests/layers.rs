//! Who may stand on whom: the table of the folders of src/, which is the picture in
//! docs/architecture.md too, and the promises of lib.rs and host/mod.rs.

#[path = "layers/source.rs"]
mod source;

use std::collections::{BTreeMap, BTreeSet};

use source::{File, Module};

/// A folder (or a file) of src/, and the others that its files may name. Everybody may name
/// [`EVERYWHERE`].
const TABLE: &[(&str, &str)] = &[
    (
        "cli",
        "builder config host kernel late load log module pools prefix process provision store systemd userland",
    ),
    ("fuzz", "compress config elf generator host kernel module pools provision systemd userland"),
    ("late", "config host log process store systemd userland"),
    ("generator", "config host mountpoints systemd"),
    ("provision", "builder compress config fetch host load pools prefix process store"),
    (
        "builder",
        "config fetch host kernel load log module pools prefix process source store userland",
    ),
    ("load", "compress config host kernel log module store userland"),
    ("pools", "config host log mountpoints process store text userland"),
    ("source", "config fetch host kernel prefix process store"),
    ("userland", "config elf host prefix process store"),
    ("fetch", "config prefix process store"),
    ("prefix", "config elf host kernel process store text"),
    ("kernel", "compress host module"),
    ("module", "compress host"),
    ("mountpoints", "config host systemd"),
    ("config", "host"),
    ("store", "host"),
];
/// Folders that stand on nothing but [`EVERYWHERE`].
const GROUND: &[&str] = &["compress", "elf", "host", "log", "process", "systemd", "text"];
/// Exit codes, and the macro `fail!` of the crate, for everybody's errors.
const EVERYWHERE: &[&str] = &["exit", "lib"];

/// Who names something below /proc or /sys otherwise than as the argument of `Host::path`, and what.
const PROC: &[(&str, &str)] = &[
    ("config", "a name in messages"),
    ("generator/dataset", "directories that get no unit"),
    ("generator/dataset_text", "a condition of units"),
    ("generator/plan", "a condition of units"),
    ("host", "what decides where the rest is"),
    ("kernel/locate", "a message"),
    ("late", "below Host::root"),
    ("load", "below Host::root, with a name in it"),
    ("load/state", "below Host::root, with a name in it"),
    ("log", "its own control group"),
    ("module/refusal", "a table of paths, read below Host::root"),
    ("mountpoints", "used below Host::root, and in conditions of units"),
    ("pools/hang", "processes of the machine, below Host::root"),
    ("prefix/audit/files", "what links may lead to"),
    ("prefix/enter", "its own program"),
    ("prefix/enter/detach", "its own mounts"),
    ("prefix/enter/kernel", "its own descriptors"),
    ("process/cpu", "its own control group"),
    ("process/table", "what it started"),
];
/// Who touches the environment of the process, beside the mains, and how.
const ENVIRONMENT: &[(&str, &str)] = &[
    ("cli/build", "current_exe"),
    ("cli/prefix", "var_os"),
    ("cli/provision", "current_exe"),
    ("prefix/enter", "set_current_dir"),
];
/// Who has unsafe code.
const UNSAFE: &[&str] = &[
    "prefix/enter/loopback",
    "prefix/enter/mounts",
    "prefix/enter/privileges",
    "prefix/enter/terminal",
    "process/descendants",
    "process/keyring",
];

fn files() -> BTreeMap<Module, File> {
    source::read(&lab::repo().join("src"))
}

/// The file that `path` leads to, by way of what files say that they export.
fn file_of(path: &[String], files: &BTreeMap<Module, File>) -> Option<Module> {
    let mut path = path.to_vec();
    for _ in 0..8 {
        let known = (0..=path.len()).rev().find(|n| files.contains_key(&path[..*n]))?;
        let next = path.get(known).and_then(|name| files[&path[..known]].exports.get(name));
        match next {
            Some(next) => path = [&next[..], &path[known + 1..]].concat(),
            None => return Some(path[..known].to_vec()),
        }
    }
    None
}

/// What each file names.
fn edges(files: &BTreeMap<Module, File>) -> BTreeMap<Module, BTreeSet<Module>> {
    let to = |module: &Module, file: &File| {
        let all = file.imports.iter().filter_map(|path| file_of(path, files));
        all.filter(|other| other != module).collect()
    };
    files.iter().map(|(module, file)| (module.clone(), to(module, file))).collect()
}

fn shown(module: &[String]) -> String {
    if module.is_empty() { "lib".to_owned() } else { module.join("/") }
}

/// The circles in a graph: sets of nodes that reach each other.
fn circles(graph: &BTreeMap<String, BTreeSet<String>>) -> Vec<BTreeSet<String>> {
    let reach = |from: &String| {
        let mut seen = BTreeSet::new();
        let mut next: Vec<&String> = graph[from].iter().collect();
        while let Some(node) = next.pop() {
            if seen.insert(node.clone()) {
                next.extend(graph.get(node).into_iter().flatten());
            }
        }
        seen
    };
    let all: BTreeMap<&String, BTreeSet<String>> = graph.keys().map(|n| (n, reach(n))).collect();
    let circle = |node: &&String| {
        let back = |other: &&String| all.get(other).is_some_and(|reach| reach.contains(*node));
        all[*node].iter().filter(back).cloned().collect::<BTreeSet<_>>()
    };
    let found: BTreeSet<BTreeSet<String>> = all.keys().map(circle).collect();
    found.into_iter().filter(|circle| !circle.is_empty()).collect()
}

/// Of a folder, or of a file beside the folders.
fn folder(module: &[String]) -> String {
    module.first().cloned().unwrap_or_else(|| "lib".to_owned())
}

/// Whether one of these is the `mod.rs` that has the other one as its child.
fn are_parent_and_child(one: &[String], other: &[String]) -> bool {
    let child = |of: &[String], it: &[String]| it.len() == of.len() + 1 && it.starts_with(of);
    child(one, other) || child(other, one)
}

#[test]
fn folders_import_what_the_table_says_and_the_table_says_nothing_else() {
    let mut found: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for (module, others) in edges(&files()) {
        for other in others {
            let (from, to) = (folder(&module), folder(&other));
            if from != to && from != "lib" && !EVERYWHERE.contains(&to.as_str()) {
                let example = format!("{} names {}", shown(&module), shown(&other));
                found.entry(from).or_default().insert(to, example);
            }
        }
    }
    let mut wrong = Vec::new();
    for (from, others) in &found {
        let row = TABLE.iter().find(|(folder, _)| folder == from).map_or("", |(_, row)| row);
        let may = |to: &str| row.split(' ').any(|other| other == to);
        wrong.extend(others.iter().filter(|(to, _)| !may(to)).map(|(_, example)| example.clone()));
    }
    for (from, row) in TABLE {
        let used = |to: &str| found.get(*from).is_some_and(|others| others.contains_key(to));
        let unused = row.split(' ').filter(|to| !used(to));
        wrong.extend(unused.map(|to| format!("{from} does not name {to}, which the table allows")));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn there_is_no_circle_of_folders_nor_of_files() {
    let files = files();
    let edges = edges(&files);
    let mut folders: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (module, others) in edges.iter().filter(|(module, _)| !module.is_empty()) {
        let others = others.iter().filter(|other| !other.is_empty());
        folders.entry(folder(module)).or_default();
        graph.entry(shown(module)).or_default();
        for other in others {
            if folder(module) != folder(other) {
                folders.entry(folder(module)).or_default().insert(folder(other));
            }
            if !are_parent_and_child(module, other) {
                graph.entry(shown(module)).or_default().insert(shown(other));
            }
        }
    }
    assert_eq!(circles(&folders), Vec::<BTreeSet<String>>::new(), "folders");
    assert_eq!(circles(&graph), Vec::<BTreeSet<String>>::new(), "files");
}

#[test]
fn only_those_who_are_named_here_read_proc_touch_the_environment_or_are_unsafe() {
    let files = files();
    let of = |is: &dyn Fn(&File) -> bool| -> Vec<String> {
        files.iter().filter(|(_, file)| is(file)).map(|(module, _)| shown(module)).collect()
    };
    let names = |text: &String| {
        text.contains("/proc/") || text.contains("\"/proc\"") || text.contains("/sys/")
    };
    // Documentation is a literal too, and begins as one.
    let told = |text: &String| text.starts_with("\" ") || text.contains('\n');
    let proc = of(&|file| file.literals.iter().any(|text| names(text) && !told(text)));
    assert_eq!(proc, PROC.iter().map(|(module, _)| *module).collect::<Vec<_>>(), "/proc and /sys");
    let environment = files.iter().flat_map(|(module, file)| {
        file.environment.iter().map(move |call| (shown(module), call.clone()))
    });
    let known = ENVIRONMENT.iter().map(|(module, call)| ((*module).to_owned(), (*call).to_owned()));
    assert_eq!(environment.collect::<Vec<_>>(), known.collect::<Vec<_>>(), "the environment");
    assert_eq!(of(&|file| file.has_unsafe), UNSAFE, "unsafe");
}

/// Each folder stands above all that it names; a line is one height.
fn picture() -> Vec<BTreeSet<&'static str>> {
    let mut heights: BTreeMap<&str, usize> = GROUND.iter().map(|folder| (*folder, 0)).collect();
    while heights.len() < TABLE.len() + GROUND.len() {
        for (from, row) in TABLE {
            let below: Option<Vec<usize>> =
                row.split(' ').map(|to| heights.get(to).copied()).collect();
            if let Some(below) = below {
                heights.insert(from, below.into_iter().max().unwrap_or(0) + 1);
            }
        }
    }
    let top = heights.values().max().copied().unwrap_or(0);
    let at = |height| heights.iter().filter(move |(_, h)| **h == height).map(|(f, _)| *f).collect();
    (0..=top).rev().map(at).collect()
}

#[test]
fn the_picture_in_the_documentation_is_the_table() {
    let text = std::fs::read_to_string(lab::repo().join("docs/architecture.md")).unwrap();
    let (_, rest) = text.split_once("```text\n").expect("a picture");
    let (drawn, _) = rest.split_once("```").expect("its end");
    let drawn: Vec<BTreeSet<&str>> =
        drawn.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(drawn, picture());
}

#[test]
fn files_are_small() {
    let files = files();
    let large: Vec<_> =
        files.iter().filter(|(_, file)| file.lines > 500).map(|(m, _)| shown(m)).collect();
    assert_eq!(large, Vec::<String>::new());
}

#[test]
fn an_import_is_found_however_it_is_written() {
    let of = |text: &str| {
        let mut file = File::default();
        let module = vec!["a".to_owned(), "b".to_owned()];
        source::tokens_of(text.parse().unwrap(), &module, false, &mut file);
        file
    };
    for (text, path) in [
        ("use crate::x::y;", "x/y"),
        ("use crate::{w, x::{self, y as z}};", "x/y"),
        ("use super::x::*;", "a/x"),
        ("fn f() { crate::x::y() }", "x/y"),
        ("fn f() { println!(\"{}\", super::x::Y) }", "a/x/Y"),
        ("mod inner { use super::super::x::y; }", "a/x/y"),
        ("type T = Vec<self::x::Y>;", "a/b/x/Y"),
        ("#[cfg(unix)] mod inner { fn f() { crate::x::y() } }", "x/y"),
    ] {
        let found: Vec<String> = of(text).imports.iter().map(|path| shown(path)).collect();
        assert!(found.contains(&path.to_owned()), "{text}: {found:?}");
    }
    let tests =
        "#[cfg(test)] mod tests { use crate::x; } #[cfg(test)] use crate::y; const A: u8 = 1;";
    assert_eq!(of(tests).imports.len(), 0);
    let exported = of("pub(crate) use inner::{A, B as C};").exports;
    assert_eq!(exported["C"], ["a", "b", "inner", "B"]);
    let literals = of("fn f() { host.path(\"/proc/x\"); read(\"/proc/y\") }").literals;
    assert_eq!(literals, ["\"/proc/y\""]);
    assert!(of("fn f() { unsafe { g() } }").has_unsafe && !of("#![deny(unsafe_code)]").has_unsafe);
    assert_eq!(of("fn f() { std::env::var(\"X\"); }").environment.len(), 1);
    let graph = |edges: &[(&str, &[&str])]| -> BTreeMap<String, BTreeSet<String>> {
        let set = |to: &[&str]| to.iter().map(|to| (*to).to_owned()).collect();
        edges.iter().map(|(from, to)| ((*from).to_owned(), set(to))).collect()
    };
    assert_eq!(circles(&graph(&[("a", &["b", "c"]), ("b", &["c"]), ("c", &[])])).len(), 0);
    let circle = circles(&graph(&[("a", &["b"]), ("b", &["c"]), ("c", &["b"])]));
    assert_eq!(circle, [BTreeSet::from(["b".to_owned(), "c".to_owned()])]);
}
