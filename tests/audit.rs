//! `zfs-prefix prefix audit` and `prefix info` on the real prefix: sound as it is made, each fault
//! found by name, and nothing found where nobody runs anything. All ELF files are real ones.
#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]

#[path = "audit/copy.rs"]
mod copy;
#[path = "lab/mod.rs"]
mod lab;

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use copy::{Copy, Found, compile, pristine, zfs_prefix};
use lab::prefix::EPREFIX;
use lab::tool::run;
use serde_json::Value;

#[test]
fn the_prefix_is_sound_where_it_is_not_in_its_place_yet_and_looking_changes_nothing() {
    let copy = Copy::of(pristine());
    let before = fs::metadata(copy.path("")).unwrap().modified().unwrap();
    let marker = copy.scratch().join("marker");
    fs::write(&marker, "").unwrap();
    let (status, report) = copy.audit();
    let found = copy::findings(&report);
    let bad: Vec<&Found> = found.iter().filter(|f| f.severity != "note").collect();
    assert!(bad.is_empty(), "{bad:#?}");
    assert_eq!((status, &report["sound"]), (Some(0), &Value::Bool(true)));
    assert!(report["files"].as_u64().unwrap() > 5000, "{report}");
    assert!(report["elf-files"].as_u64().unwrap() > 500, "{report}");
    assert!(report["scripts"].as_u64().unwrap() > 100, "{report}");
    assert!(report["compiler"].as_str().unwrap().starts_with("gcc"), "{report}");
    assert_eq!(fs::metadata(copy.path("")).unwrap().modified().unwrap(), before);
    let newer = run(Command::new("find").arg(copy.path("")).arg("-newer").arg(&marker)).unwrap();
    assert_eq!(newer, "", "written by the audit");
    let text = copy.audit_as_text();
    assert!(text.trim_end().ends_with("0 errors, 0 warnings: sound"), "{text}");
}

/// A fault, what it is found as, and words of the message; what follows from it, by check.
struct Fault {
    case: &'static str,
    make: fn(&Copy),
    severity: &'static str,
    check: &'static str,
    file: &'static str,
    says: &'static str,
    follows: &'static [&'static str],
}

const fn fault(
    case: &'static str,
    make: fn(&Copy),
    check: &'static str,
    file: &'static str,
    says: &'static str,
) -> Fault {
    Fault { case, make, severity: "error", check, file, says, follows: &[] }
}

/// Links as the prefix's own gcc does, by the host's.
const INTERPRETER: &str = "-Wl,--dynamic-linker=/home/core/gentoo/lib64/ld-linux-x86-64.so.2";
const RPATH: &str = "-Wl,--disable-new-dtags,-rpath,/home/core/gentoo/usr/lib/x86_64-linux-gnu";

fn faults() -> Vec<Fault> {
    let tool = "usr/bin/tool";
    vec![
        fault(
            "the host's interpreter",
            |c| c.program("usr/bin/tool", &[RPATH]),
            "interpreter",
            tool,
            "the host's /lib64/ld-linux-x86-64.so.2",
        ),
        fault(
            "an interpreter that is not there",
            |c| {
                c.program(
                    "usr/bin/tool",
                    &["-Wl,--dynamic-linker=/home/core/gentoo/lib/ld.so", RPATH],
                )
            },
            "interpreter",
            tool,
            "/home/core/gentoo/usr/lib/ld.so is not there",
        ),
        fault(
            "a run path of the host's",
            |c| {
                let rpath = format!("{RPATH}:/usr/lib/x86_64-linux-gnu");
                c.program("usr/bin/tool", &[INTERPRETER, &rpath]);
            },
            "run-path",
            tool,
            "DT_RPATH has /usr/lib/x86_64-linux-gnu",
        ),
        fault(
            "$ORIGIN that climbs out",
            |c| {
                let rpath = format!("{RPATH}:$ORIGIN/../../../../../usr/lib");
                let rpath = rpath.replace("--disable-new-dtags", "--enable-new-dtags");
                c.program("usr/bin/tool", &[INTERPRETER, &rpath]);
            },
            "run-path",
            tool,
            "which is the host's /usr/lib",
        ),
        fault(
            "a library that is nowhere",
            |c| {
                let library = c.scratch().join("libnowhere.so");
                compile(&library, &["-shared", "-fPIC", "-Wl,-soname,libnowhere.so.1"]);
                let needs = library.display().to_string();
                let needed = ["-Wl,--no-as-needed", &needs, INTERPRETER, RPATH];
                c.program("usr/bin/tool", &needed);
            },
            "library",
            tool,
            "needs libnowhere.so.1",
        ),
        fault(
            "a script of the host's python",
            |c| c.write("usr/bin/tool", b"#!/usr/bin/python3 -E\nprint()\n", 0o755),
            "script",
            tool,
            "is run by the host's /usr/bin/python3",
        ),
        fault(
            "a script of a program that env does not find",
            |c| c.write("usr/bin/tool", b"#!/usr/bin/env -S A=b ruby -w\n", 0o755),
            "script",
            tool,
            "env(1) finds no ruby",
        ),
        fault(
            "a script whose interpreter is missing",
            |c| c.write("usr/bin/tool", b"#!/home/core/gentoo/bin/fish\n", 0o755),
            "script",
            tool,
            "/home/core/gentoo/usr/bin/fish is not there",
        ),
        fault(
            "a file that everybody can write to",
            |c| c.write("etc/tool", b"x", 0o666),
            "mode",
            "etc/tool",
            "everybody can write to it (mode 0666)",
        ),
        fault(
            "a directory that everybody can write to",
            |c| c.directory("usr/share/tool", 0o777),
            "mode",
            "usr/share/tool",
            "mode 0777",
        ),
        fault(
            "a setuid program",
            |c| {
                c.program("usr/bin/tool", &[INTERPRETER, RPATH]);
                c.chmod("usr/bin/tool", 0o4755);
            },
            "mode",
            tool,
            "is setuid (mode 4755)",
        ),
        fault(
            "root's file",
            |c| {
                c.write("etc/tool", b"x", 0o644);
                std::os::unix::fs::chown(c.path("etc/tool"), Some(0), Some(0)).unwrap();
            },
            "owner",
            "etc/tool",
            "belongs to uid 0, the prefix to uid 500",
        ),
        fault(
            "a link to a program of the host's",
            |c| c.link("usr/bin/tool", "/usr/bin/perl"),
            "link",
            tool,
            "leads to the host's /usr/bin/perl",
        ),
        fault(
            "a torn program",
            |c| {
                c.program("usr/bin/tool", &[INTERPRETER, RPATH]);
                c.edit("usr/bin/tool", |bytes| bytes.truncate(200));
            },
            "unreadable",
            tool,
            "is a damaged ELF file",
        ),
        Fault {
            follows: &["probe"],
            ..fault(
                "no cc1",
                |c| c.remove("usr/lib/gcc/x86_64-linux-gnu/12/cc1"),
                "missing",
                "usr/lib/gcc/x86_64-linux-gnu/12/cc1",
                "the compiler's own part is missing",
            )
        },
        Fault {
            follows: &["probe"],
            ..fault(
                "crt1.o leads nowhere",
                |c| c.link("usr/lib/x86_64-linux-gnu/crt1.o", "../gone/crt1.o"),
                "missing",
                "usr/lib/x86_64-linux-gnu/crt1.o",
                "leads nowhere: there is no /home/core/gentoo/usr/lib/gone/crt1.o",
            )
        },
        Fault {
            follows: &["probe"],
            ..fault(
                "no libc headers",
                |c| c.remove("usr/include/stdio.h"),
                "missing",
                "usr/include/stdio.h",
                "header is missing",
            )
        },
        fault(
            "make that cannot be executed",
            |c| {
                c.edit("usr/bin/make", |_| {});
                c.chmod("usr/bin/make", 0o644);
            },
            "missing",
            "usr/bin/make",
            "no program make",
        ),
        fault(
            "emerge that does not work",
            |c| c.write("usr/bin/emerge", b"#!/bin/sh\necho no python >&2\nexit 1\n", 0o755),
            "probe",
            "usr/bin/emerge",
            "no python",
        ),
        Fault {
            severity: "warning",
            ..fault(
                "an interpreter that looks into the host's directories",
                |c| {
                    let own = fs::canonicalize("/lib64/ld-linux-x86-64.so.2").unwrap();
                    c.write("usr/lib/ld-host.so", &fs::read(own).unwrap(), 0o755);
                    let interpreter = "-Wl,--dynamic-linker=/home/core/gentoo/usr/lib/ld-host.so";
                    c.program("usr/bin/tool", &[interpreter, RPATH]);
                },
                "search-path",
                "usr/lib/ld-host.so",
                "looks for libraries in the host's /etc/ld.so.cache, /lib",
            )
        },
    ]
}

#[test]
fn each_fault_is_found_by_name_with_a_cure_and_nothing_else_is() {
    let (_, report) = Copy::of(pristine()).audit();
    let before = copy::findings(&report);
    for fault in faults() {
        let Fault { case, severity, check, file, says, follows, .. } = fault;
        let copy = Copy::of(pristine());
        (fault.make)(&copy);
        let (status, report) = copy.audit();
        let found = copy::findings(&report);
        let new: Vec<&Found> = found.difference(&before).collect();
        let (named, others): (Vec<&Found>, Vec<&Found>) = new.iter().partition(|f| {
            (f.check.as_str(), f.file.as_str()) == (check, &*format!("{EPREFIX}/{file}"))
        });
        assert!(
            named.len() == 1 && named[0].severity == severity && named[0].problem.contains(says),
            "{case}: {new:#?}"
        );
        assert!(named[0].cure.len() > 5, "{case}: {named:?}");
        assert!(others.iter().all(|f| follows.contains(&&*f.check)), "{case}: {others:#?}");
        assert_eq!(others.is_empty(), follows.is_empty(), "{case}: {others:#?}");
        let sound = severity != "error";
        assert_eq!(report["sound"], Value::Bool(sound), "{case}");
        assert_eq!(status, Some(if sound { 0 } else { 11 }), "{case}");
    }
}

#[test]
fn files_that_nobody_runs_are_no_findings() {
    let (_, report) = Copy::of(pristine()).audit();
    let before = copy::findings(&report);
    let copy = Copy::of(pristine());
    copy.program("usr/bin/static", &["-static"]);
    copy.program("usr/bin/static-pie", &["-static-pie"]);
    copy.program("usr/lib/tool.o", &["-c"]);
    copy.program("usr/lib/debug/usr/bin/tool", &[]);
    copy.program("usr/share/doc/tool/tool", &[]);
    copy.program("usr/lib/not-executable", &[]);
    copy.chmod("usr/lib/not-executable", 0o644);
    copy.program("usr/bin/of-another-machine", &[]);
    // e_machine (elf(5)): EM_MIPS.
    copy.edit("usr/bin/of-another-machine", |bytes| bytes[18] = 8);
    copy.write("usr/share/tool.py", b"#!/usr/bin/python3\n", 0o644);
    copy.write("usr/share/tool/examples/tool.py", b"#!/usr/bin/python3\n", 0o755);
    copy.write("usr/share/template", b"#!@PERL@ -w\n", 0o755);
    for (name, line) in [("sh", "/bin/sh -e"), ("bash", "/bin/bash"), ("env", "/usr/bin/env bash")]
    {
        copy.write(&format!("usr/bin/by-{name}"), format!("#! {line}\n").as_bytes(), 0o755);
    }
    copy.directory("var/open", 0o1777);
    copy.directory("var/group", 0o2775);
    copy.link("usr/lib/modules/6.1.0", "/var/lib/zfs-prefix/store/6.1.0/key/lib/modules/6.1.0");
    let (_, report) = copy.audit();
    let found = copy::findings(&report);
    let new: Vec<&Found> = found.difference(&before).collect();
    assert!(new.is_empty(), "{new:#?}");
}

/// The prefix of 2014 in miniature, beside what is there: its interpreter in usr/lib, links with
/// absolute targets, a python that is a wrapper.
#[test]
fn the_shape_of_the_ancestors_tree_is_fine_and_its_missing_cc1_is_not() {
    let (_, report) = Copy::of(pristine()).audit();
    let before = copy::findings(&report);
    let copy = Copy::of(pristine());
    let ld_so = fs::read(copy.path("lib64/ld-linux-x86-64.so.2")).unwrap();
    copy.write("usr/lib/ld-linux-x86-64.so.2", &ld_so, 0o755);
    let interpreter = format!("-Wl,--dynamic-linker={EPREFIX}/usr/lib/ld-linux-x86-64.so.2");
    let origin = "-Wl,--enable-new-dtags,-rpath,$ORIGIN/../lib/x86_64-linux-gnu";
    copy.program("usr/bin/python3-real", &[&interpreter, origin]);
    let wrapper = format!("#!{EPREFIX}/bin/bash\nexec {EPREFIX}/usr/bin/python3-real \"$@\"\n");
    copy.write("usr/bin/python-wrapper", wrapper.as_bytes(), 0o755);
    copy.link("usr/bin/python2.7", &format!("{EPREFIX}/usr/bin/python-wrapper"));
    copy.write("usr/bin/tool", format!("#!{EPREFIX}/usr/bin/python2.7\n").as_bytes(), 0o755);
    let (_, report) = copy.audit();
    let found = copy::findings(&report);
    let new: Vec<&Found> = found.difference(&before).collect();
    assert!(new.is_empty(), "{new:#?}");
    copy.remove("usr/lib/gcc/x86_64-linux-gnu/12/cc1");
    let (status, report) = copy.audit();
    assert_eq!(status, Some(11));
    let cc1 = |f: &Found| f.check == "missing" && f.file.ends_with("/cc1");
    assert!(copy::findings(&report).iter().any(cc1), "{report:#}");
}

/// gcc's specs are what makes it link for the prefix: without them nothing static is missing.
#[test]
fn a_compiler_that_links_for_the_host_is_found_by_running_it() {
    let copy = Copy::of(pristine());
    let specs = run(Command::new("find").arg(copy.path("usr")).args(["-name", "specs"])).unwrap();
    assert!(!specs.is_empty(), "the prefix's gcc has a specs file");
    specs.lines().for_each(|path| fs::remove_file(path).unwrap());
    let (status, report) = copy.audit();
    assert_eq!(status, Some(11));
    let probe = |f: &&Found| f.check == "probe" && f.file.ends_with("usr/bin/gcc");
    let found = copy::findings(&report);
    let probes: Vec<&Found> = found.iter().filter(probe).collect();
    assert!(!probes.is_empty(), "{report:#}");
}

#[test]
fn programs_that_cannot_be_run_are_an_error_and_never_passed_over() {
    let copy = Copy::of(pristine());
    copy.open_to_all();
    let (status, report) = copy.audit_as_owner();
    assert_eq!(status, Some(11));
    let found = copy::findings(&report);
    let not_run = |f: &Found| f.check == "probe" && f.problem.contains("its programs were not run");
    assert!(found.iter().any(not_run), "{report:#}");
    let errors = found.iter().filter(|f| f.severity == "error").count();
    let (_, as_root) = copy.audit();
    let as_root = copy::findings(&as_root).iter().filter(|f| f.severity == "error").count();
    assert_eq!(errors, as_root + 1, "the owner finds the rest too");
}

#[test]
fn names_of_the_owner_are_found_where_coreos_keeps_them_and_their_absence_is_a_note() {
    let copy = Copy::of(pristine());
    let notes = |copy: &Copy| -> BTreeSet<String> {
        let (_, report) = copy.audit();
        let found = copy::findings(&report);
        found.into_iter().filter(|f| f.severity == "note").map(|f| f.problem).collect()
    };
    let none = notes(&copy);
    assert_eq!(none.len(), 2, "{none:?}");
    assert!(none.iter().all(|note| note.contains("builds see an entry made for it")), "{none:?}");
    copy.host("usr/share/baselayout/group", "core:x:500:\n");
    copy.host("etc/passwd", "root:x:0:0::/:\ncore:x:500:500::/home/core:/bin/bash\n");
    let one = notes(&copy);
    assert_eq!(one.len(), 1, "{one:?}");
    let note = one.first().unwrap();
    assert!(note.contains("\"core\" in /usr/share/baselayout/group"), "{note}");
    copy.host("etc/group", "core:x:500:\n");
    assert_eq!(notes(&copy), BTreeSet::new());
}

#[test]
fn info_tells_what_the_prefix_is_and_where_it_came_from() {
    let copy = Copy::of(pristine());
    let record = r#"{"version":1,"source":"file:///x","sha256":"ab","digest":"cd","when":1}"#;
    copy.write(".zfs-prefix.json", record.as_bytes(), 0o644);
    let (status, text) = copy.in_place(&["prefix", "info", "--json"]);
    let info: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    assert_eq!((status, &info["problems"]), (Some(0), &serde_json::json!([])), "{text}");
    for (key, words) in [
        ("eprefix", EPREFIX),
        ("compiler", "gcc (Debian 12."),
        ("compiler-path", "/home/core/gentoo/usr/bin/gcc"),
        ("libc", "GNU C Library (Debian GLIBC 2.36"),
        ("interpreter", "/home/core/gentoo/lib64/ld-linux-x86-64.so.2"),
        ("portage", "3."),
    ] {
        assert!(info[key].as_str().is_some_and(|v| v.starts_with(words)), "{key}: {text}");
    }
    assert_eq!(info["owner"]["uid"], 500, "{text}");
    assert_eq!(info["provisioned"]["source"], "file:///x", "{text}");
    let package = info["repositories"][0]["packages"][0].as_str();
    assert!(package.is_some_and(|p| p.starts_with("sys-fs/zfs-kmod-")), "{text}");
    let du = run(Command::new("du").args(["-s", "-B1"]).arg(copy.path(""))).unwrap();
    let du: u64 = du.split('\t').next().unwrap().parse().unwrap();
    assert_eq!(info["size"].as_u64(), Some(du), "{text}");
    let (status, text) = copy.in_place(&["prefix", "info"]);
    assert_eq!(status, Some(0), "{text}");
    assert!(text.contains("    compiler: gcc (Debian"), "{text}");
}

#[test]
fn a_prefix_that_is_not_there_is_11_and_a_bad_command_line_is_2() {
    let scratch = tempfile::tempdir().unwrap();
    fs::create_dir_all(scratch.path().join("proc")).unwrap();
    fs::write(scratch.path().join("proc/cmdline"), "quiet\n").unwrap();
    let missing = scratch.path().join("none").display().to_string();
    for (args, want) in [
        (vec!["prefix", "audit", &*missing], Some(11)),
        (vec!["prefix", "audit", "/proc/version"], Some(11)),
        (vec!["prefix", "audit", "--frobnicate"], Some(2)),
        (vec!["prefix", "info"], Some(11)),
    ] {
        let config = format!("[prefix]\npath = \"{missing}\"\n");
        let etc = scratch.path().join("etc/zfs-prefix");
        fs::create_dir_all(&etc).unwrap();
        fs::write(etc.join("config.toml"), config).unwrap();
        let output = zfs_prefix(scratch.path()).args(&args).output().unwrap();
        assert_eq!(output.status.code(), want, "{args:?}: {output:?}");
        assert!(!output.stderr.is_empty() && output.stdout.is_empty(), "{args:?}: {output:?}");
    }
}
