//! `zfs-prefix prefix audit` and `prefix info` on the real prefix: sound as it is made, each fault
//! found by name, and nothing found where nobody runs anything. All ELF files are real ones.
#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]

mod copy;

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use copy::{Copy, Found, compile, pristine, zfs_prefix};
use lab::prefix::EPREFIX;
use lab::tool::run;
use serde_json::Value;

#[test]
fn the_prefix_is_sound_where_it_is_not_in_its_place_yet_and_looking_changes_nothing() {
    let copy = Copy::of(&pristine());
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

/// A fault, what it is found as, and words of the message.
struct Fault {
    case: &'static str,
    /// Makes it, as this file.
    make: fn(&Copy, &str),
    check: &'static str,
    file: &'static str,
    says: &'static str,
}

impl Fault {
    /// The finding of it; there is one, an error unless the case says else, and it has a cure.
    fn among<'f>(&self, found: &[&'f Found], severity: &str) -> &'f Found {
        let case = self.case;
        let file = format!("{EPREFIX}/{}", self.file);
        let mut named = found.iter().filter(|f| f.check == self.check && f.file == file);
        let one = named.next().unwrap_or_else(|| panic!("{case}: {found:#?}"));
        assert!(named.next().is_none(), "{case}: {found:#?}");
        assert!(one.severity == severity && one.problem.contains(self.says), "{case}: {one:?}");
        assert!(one.cure.len() > 5, "{case}: {one:?}");
        one
    }
}

const fn fault(
    case: &'static str,
    make: fn(&Copy, &str),
    check: &'static str,
    file: &'static str,
    says: &'static str,
) -> Fault {
    Fault { case, make, check, file, says }
}

/// Links as the prefix's own gcc does, by the host's.
const INTERPRETER: &str = "-Wl,--dynamic-linker=/home/core/gentoo/lib64/ld-linux-x86-64.so.2";
const RPATH: &str = "-Wl,--disable-new-dtags,-rpath,/home/core/gentoo/usr/lib/x86_64-linux-gnu";

/// Each by itself leaves the rest of the prefix as it is.
fn faults() -> Vec<Fault> {
    vec![
        fault(
            "the host's interpreter",
            |c, file| c.program(file, &[RPATH]),
            "interpreter",
            "usr/bin/for-the-host",
            "the host's /lib64/ld-linux-x86-64.so.2",
        ),
        fault(
            "an interpreter that is not there",
            |c, file| {
                let interpreter = "-Wl,--dynamic-linker=/home/core/gentoo/lib/ld.so";
                c.program(file, &[interpreter, RPATH]);
            },
            "interpreter",
            "usr/bin/for-nobody",
            "/home/core/gentoo/usr/lib/ld.so is not there",
        ),
        fault(
            "DT_RPATH of the host's",
            |c, file| {
                c.program(file, &[INTERPRETER, &format!("{RPATH}:/usr/lib/x86_64-linux-gnu")])
            },
            "run-path",
            "usr/bin/rpath",
            "DT_RPATH has /usr/lib/x86_64-linux-gnu",
        ),
        fault(
            "DT_RUNPATH whose $ORIGIN climbs out",
            |c, file| {
                let rpath = format!("{RPATH}:$ORIGIN/../../../../../usr/lib");
                let rpath = rpath.replace("--disable-new-dtags", "--enable-new-dtags");
                c.program(file, &[INTERPRETER, &rpath]);
            },
            "run-path",
            "usr/bin/runpath",
            "DT_RUNPATH has /home/core/gentoo/usr/bin/../../../../../usr/lib, which is the host's /usr/lib",
        ),
        fault(
            "a library that is nowhere",
            |c, file| {
                let library = c.scratch().join("libnowhere.so");
                compile(&library, &["-shared", "-fPIC", "-Wl,-soname,libnowhere.so.1"]);
                let needs = library.display().to_string();
                c.program(file, &["-Wl,--no-as-needed", &needs, INTERPRETER, RPATH]);
            },
            "library",
            "usr/bin/needy",
            "needs libnowhere.so.1",
        ),
        fault(
            "a script of the host's python",
            |c, file| c.write(file, b"#!/usr/bin/python3 -E\nprint()\n", 0o755),
            "script",
            "usr/bin/script-python",
            "is run by the host's /usr/bin/python3",
        ),
        fault(
            "a script of a program that env does not find",
            |c, file| c.write(file, b"#!/usr/bin/env -S A=b ruby -w\n", 0o755),
            "script",
            "usr/bin/script-env",
            "env(1) finds no ruby",
        ),
        fault(
            "a script whose interpreter is missing",
            |c, file| c.write(file, b"#!/home/core/gentoo/bin/fish\n", 0o755),
            "script",
            "usr/share/script-missing",
            "/home/core/gentoo/usr/bin/fish is not there",
        ),
        fault(
            "a file that everybody can write to",
            |c, file| c.write(file, b"x", 0o666),
            "mode",
            "etc/open",
            "everybody can write to it (mode 0666)",
        ),
        fault(
            "the same where nobody runs anything",
            |c, file| c.write(file, b"x", 0o666),
            "mode",
            "var/db/repos/gentoo/open",
            "everybody can write to it (mode 0666)",
        ),
        fault(
            "a directory that everybody can write to",
            |c, file| c.directory(file, 0o777),
            "mode",
            "usr/share/open",
            "mode 0777",
        ),
        fault(
            "a setuid program",
            |c, file| {
                c.program(file, &[INTERPRETER, RPATH]);
                c.chmod(file, 0o4755);
            },
            "mode",
            "usr/bin/setuid",
            "is setuid (mode 4755)",
        ),
        fault(
            "root's file",
            |c, file| {
                c.write(file, b"x", 0o644);
                std::os::unix::fs::chown(c.path(file), Some(0), Some(0)).unwrap();
            },
            "owner",
            "etc/of-root",
            "belongs to uid 0, the prefix to uid 500",
        ),
        fault(
            "a link to a program of the host's",
            |c, file| c.link(file, "/usr/bin/perl"),
            "link",
            "usr/bin/linked",
            "leads to the host's /usr/bin/perl",
        ),
        fault(
            "a torn program",
            |c, file| {
                c.program(file, &[INTERPRETER, RPATH]);
                c.edit(file, |bytes| bytes.truncate(200));
            },
            "unreadable",
            "usr/bin/torn",
            "is a damaged ELF file",
        ),
    ]
}

#[test]
fn each_fault_is_found_by_name_with_a_cure_and_nothing_else_is() {
    let (_, report) = Copy::of(&pristine()).audit();
    let before = copy::findings(&report);
    let copy = Copy::of(&pristine());
    let faults = faults();
    faults.iter().for_each(|fault| (fault.make)(&copy, fault.file));
    let (status, report) = copy.audit();
    assert_eq!((status, &report["sound"]), (Some(11), &Value::Bool(false)));
    let found = copy::findings(&report);
    let new: Vec<&Found> = found.difference(&before).collect();
    let named: BTreeSet<&Found> = faults.iter().map(|fault| fault.among(&new, "error")).collect();
    let others: Vec<&&Found> = new.iter().filter(|f| !named.contains(**f)).collect();
    assert!(others.is_empty(), "{others:#?}");
}

/// Without these nothing can be built: what follows is found by running the toolchain.
fn gaps() -> Vec<Fault> {
    vec![
        fault(
            "no cc1",
            Copy::remove,
            "missing",
            "usr/lib/gcc/x86_64-linux-gnu/12/cc1",
            "the compiler's own part is missing",
        ),
        fault(
            "crt1.o leads nowhere",
            |c, file| c.link(file, "../gone/crt1.o"),
            "missing",
            "usr/lib/x86_64-linux-gnu/crt1.o",
            "leads nowhere: there is no /home/core/gentoo/usr/lib/gone/crt1.o",
        ),
        fault(
            "no libc headers",
            Copy::remove,
            "missing",
            "usr/include/stdio.h",
            "header is missing",
        ),
        fault(
            "ld cannot be executed",
            |c, file| {
                c.edit(file, |_| {});
                let real = std::fs::canonicalize(c.path(file)).unwrap();
                let real = real.strip_prefix(c.path("").canonicalize().unwrap()).unwrap();
                c.chmod(real.to_str().unwrap(), 0o644);
            },
            "missing",
            "usr/bin/ld",
            "no program ld",
        ),
        fault(
            "make is of another machine",
            // e_machine (elf(5)): EM_MIPS.
            |c, file| c.edit(file, |bytes| bytes[18] = 8),
            "missing",
            "usr/bin/make",
            "no program make that runs on this machine",
        ),
        fault(
            "emerge does not work",
            |c, file| c.write(file, b"#!/bin/sh\necho no python >&2\nexit 1\n", 0o755),
            "probe",
            "usr/bin/emerge",
            "no python",
        ),
    ]
}

#[test]
fn what_a_build_needs_is_missed_by_name_and_so_is_what_does_not_work() {
    let (_, report) = Copy::of(&pristine()).audit();
    let before = copy::findings(&report);
    for gap in gaps() {
        let copy = Copy::of(&pristine());
        (gap.make)(&copy, gap.file);
        let (status, report) = copy.audit();
        assert_eq!(status, Some(11), "{}", gap.case);
        let found = copy::findings(&report);
        let new: Vec<&Found> = found.difference(&before).collect();
        let named = gap.among(&new, "error");
        let other = |f: &&&Found| f.check != "probe" && **f != named;
        let others: Vec<&&Found> = new.iter().filter(other).collect();
        assert!(others.is_empty(), "{}: {others:#?}", gap.case);
        // A compiler without a part of its own cannot compile: seen when it tries.
        let gcc = new.iter().any(|f| f.check == "probe" && f.file.ends_with("/gcc"));
        let compiles = ["make", "emerge"].iter().any(|name| gap.file.ends_with(name));
        assert_ne!(gcc, compiles, "{}: {new:#?}", gap.case);
    }
}

#[test]
fn an_interpreter_that_looks_into_the_hosts_directories_is_a_warning() {
    let (_, report) = Copy::of(&pristine()).audit();
    let before = copy::findings(&report);
    let copy = Copy::of(&pristine());
    let hosts = fs::canonicalize("/lib64/ld-linux-x86-64.so.2").unwrap();
    copy.write("usr/lib/ld-host.so", &fs::read(hosts).unwrap(), 0o755);
    let interpreter = format!("-Wl,--dynamic-linker={EPREFIX}/usr/lib/ld-host.so");
    copy.program("usr/bin/tool", &[&interpreter, RPATH]);
    let (_, report) = copy.audit();
    let found = copy::findings(&report);
    let new: Vec<&Found> = found.difference(&before).collect();
    let fault = fault(
        "the host's interpreter, copied",
        |_, _| {},
        "search-path",
        "usr/lib/ld-host.so",
        "looks for libraries in the host's /etc/ld.so.cache, /lib",
    );
    fault.among(&new, "warning");
    assert_eq!(new.len(), 1, "{new:#?}");
}

#[test]
fn files_that_nobody_runs_are_no_findings() {
    let (_, report) = Copy::of(&pristine()).audit();
    let before = copy::findings(&report);
    let copy = Copy::of(&pristine());
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
    let repository = "var/db/repos/gentoo";
    let service = format!("{repository}/net-misc/ntp/files/ntpd.rc");
    copy.write(&service, b"#!/sbin/openrc-run\n", 0o755);
    let hook = format!("{repository}/.git/hooks/fsmonitor-watchman.sample");
    copy.write(&hook, b"#!/usr/bin/perl\n", 0o755);
    copy.write("usr/portage/eclass/tests/a.sh", b"#!/sbin/runscript\n", 0o755);
    copy.program("var/db/pkg/sys-apps/tool-1/tool", &[]);
    copy.program("usr/lib/python3.11/test/tool", &[]);
    copy.write("usr/share/tool/tests/tool.py", b"#!/usr/bin/python3\n", 0o755);
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
    let (_, report) = Copy::of(&pristine()).audit();
    let before = copy::findings(&report);
    let copy = Copy::of(&pristine());
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
    let copy = Copy::of(&pristine());
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
fn a_program_of_the_prefix_cannot_make_root_write_through_a_link() {
    let copy = Copy::of(&pristine());
    let victim = copy.scratch().join("victim");
    fs::write(&victim, "root's").unwrap();
    // Wherever the probe's source is, or will be.
    let script =
        format!("#!/bin/sh\nln -sfn {} probe.c && echo planted >&2\nexit 1\n", victim.display());
    copy.write("usr/bin/as", script.as_bytes(), 0o755);
    let (status, report) = copy.audit();
    assert_eq!(status, Some(11));
    let planted = |f: &Found| f.file.ends_with("/as") && f.problem.contains("planted");
    assert!(copy::findings(&report).iter().any(planted), "{report:#}");
    assert_eq!(fs::read_to_string(&victim).unwrap(), "root's");
}

#[test]
fn programs_that_cannot_be_run_are_an_error_and_never_passed_over() {
    let copy = Copy::of(&pristine());
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
fn a_machine_that_lets_nobody_in_is_no_fault_of_the_tree() {
    let copy = Copy::of(&pristine());
    let noexec = "mkdir -p \"$1\" && mount --bind \"$1\" \"$1\" && \
        mount -o remount,bind,noexec \"$1\" && shift && exec \"$@\"";
    let scratch = copy.scratch().join("host/var/cache/zfs-prefix").display().to_string();
    let tree = copy.path("").display().to_string();
    for (case, by, says) in [
        (
            "no CAP_SYS_ADMIN",
            &["setpriv", "--bounding-set=-sys_admin"][..],
            "CAP_SYS_ADMIN is needed",
        ),
        (
            "a directory to work in that is noexec",
            &["unshare", "--mount", "sh", "-c", noexec, "sh", &scratch],
            "mounted noexec",
        ),
        (
            "a prefix that is noexec",
            &["unshare", "--mount", "sh", "-c", noexec, "sh", &tree],
            "mounted noexec",
        ),
    ] {
        let output = copy.audited_by(by);
        assert_eq!(output.status.code(), Some(1), "{case}: {output:?}");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(errors.contains(says) && output.stdout.is_empty(), "{case}: {output:?}");
    }
}

#[test]
fn names_of_the_owner_are_found_where_coreos_keeps_them_and_their_absence_is_a_note() {
    let copy = Copy::of(&pristine());
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
fn a_compiler_of_another_major_version_than_the_kernels_is_a_warning() {
    let copy = Copy::of(&pristine());
    let release = run(Command::new("uname").arg("-r")).unwrap();
    let release = release.trim();
    let build = format!("usr/lib/modules/{release}/build");
    let uts = format!("#define UTS_RELEASE \"{release}\"\n");
    copy.host(&format!("{build}/include/generated/utsrelease.h"), &uts);
    copy.host(&format!("{build}/Module.symvers"), "0x1\tf\tvmlinux\tEXPORT_SYMBOL\t\n");
    for (line, warnings) in [("gcc-12 (Debian 12.2.0-14) 12.2.0", 0), ("gcc (GCC) 14.2.1 2025", 1)]
    {
        let config = format!("CONFIG_CC_VERSION_TEXT=\"{line}\"\n");
        copy.host(&format!("{build}/.config"), &config);
        let (status, report) = copy.audit();
        assert_eq!((status, &report["sound"]), (Some(0), &Value::Bool(true)), "{report:#}");
        let found = copy::findings(&report);
        let found: Vec<&Found> = found.iter().filter(|f| f.check == "compiler").collect();
        assert_eq!(found.len(), warnings, "{line}: {found:?}");
        let named = |f: &&Found| f.severity == "warning" && f.problem.contains(line);
        assert!(found.iter().all(named), "{line}: {found:?}");
    }
}

#[test]
fn info_tells_what_the_prefix_is_and_where_it_came_from() {
    let copy = Copy::of(&pristine());
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
    let scratch = lab::tmp::scratch("audit-");
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
