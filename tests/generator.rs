//! The generator against golden trees, and the rules of systemd.generator(7) it has to keep.
//!
//! A case is a directory of `tests/golden`: `root/` is put over a root with the static units;
//! `cmdline`, `env` (NAME=value lines), `directories` (1 or 3), `units` (where they are) are its
//! input; `expected/{normal,early,late}/` and `kmsg` its output, `status` its exit status.
//! ZFS_PREFIX_BLESS=1 writes the output into the cases: read the difference before committing it.

#![allow(clippy::unwrap_used, reason = "a test may; clippy.toml knows only its test functions")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use lab::files::{copy_tree, entries, scratch};
use lab::repo as source;
use lab::units::install_units;

const GENERATOR: &str = env!("CARGO_BIN_EXE_zfs-prefix-generator");

/// Path -> what is there.
type Tree = BTreeMap<String, String>;

struct Case {
    name: String,
    path: PathBuf,
}

impl Case {
    fn named(name: &str) -> Case {
        Case { name: name.to_owned(), path: source().join("tests/golden").join(name) }
    }

    fn read(&self, file: &str, default: &str) -> String {
        fs::read_to_string(self.path.join(file)).unwrap_or(default.to_owned())
    }

    /// The machine of this case.
    fn root(&self) -> tempfile::TempDir {
        let root = scratch(&format!("golden-{}-", self.name));
        let units = self.read("units", "/usr/lib/systemd/system");
        if units.starts_with('/') {
            install_units(root.path(), units.trim());
        }
        for (path, text) in [
            ("dev/kmsg", String::new()),
            ("proc/cmdline", self.read("cmdline", "quiet\n")),
            // systemd never looks at the kernel's command line in a container.
            ("proc/1/cmdline", self.read("cmdline-of-pid-1", "/sbin/init\0")),
        ] {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        copy_tree(&self.path.join("root"), root.path());
        root
    }

    /// A run of `program` (the generator, or something that ends in running it) in `root` with
    /// output to `out`.
    fn run(&self, program: &[&str], root: &Path, out: &Path) -> Output {
        // PID 1 has umask 0; modes must not depend on it.
        let mut command = Command::new("sh");
        command.args(["-c", "umask 0; exec \"$@\"", "sh"]).args(program);
        command.env_clear().env("PATH", "/usr/bin:/bin").env("ZFS_PREFIX_ROOT", root);
        let environment = self.read("env", "SYSTEMD_IN_INITRD=0\nSYSTEMD_ARCHITECTURE=x86-64\n");
        command.envs(environment.lines().filter_map(|line| line.split_once('=')));
        let directories: &[&str] = match self.read("directories", "3").trim() {
            "1" => &["normal"],
            _ => &["normal", "early", "late"],
        };
        for directory in directories {
            fs::create_dir_all(out.join(directory)).unwrap();
            command.arg(out.join(directory));
        }
        command.output().unwrap()
    }

    fn status(&self) -> i32 {
        self.read("status", "0").trim().parse().unwrap()
    }

    fn expected(&self) -> Tree {
        let mut tree = tree_of(&self.path.join("expected"));
        tree.retain(|path, _| !path.ends_with(".gitkeep"));
        tree
    }

    /// The kernel log of `root`, with the process id and the scratch directory taken out.
    fn kmsg(&self, root: &Path) -> String {
        let log = fs::read_to_string(root.join("dev/kmsg")).unwrap();
        let log = log.replace(root.to_str().unwrap(), "ROOT");
        let line = |line: &str| {
            let (head, tail) = line.split_once('[').unwrap();
            let (pid, tail) = tail.split_once(']').unwrap();
            assert!(pid.parse::<u32>().is_ok(), "{line}");
            format!("{head}[PID]{tail}\n")
        };
        log.lines().map(line).collect()
    }

    fn bless(&self, root: &Path, out: &Path) {
        let expected = self.path.join("expected");
        let _ = fs::remove_dir_all(&expected);
        for directory in entries(out) {
            if !entries(&out.join(&directory)).is_empty() {
                copy_tree(&out.join(&directory), &expected.join(&directory));
            }
        }
        fs::write(self.path.join("kmsg"), self.kmsg(root)).unwrap();
    }
}

/// Everything below `directory` but the three top directories; none when it is not there.
fn tree_of(directory: &Path) -> Tree {
    fn walk(top: &Path, directory: &Path, tree: &mut Tree) {
        for name in entries(directory) {
            let path = directory.join(name);
            let meta = fs::symlink_metadata(&path).unwrap();
            let relative = path.strip_prefix(top).unwrap().to_str().unwrap().to_owned();
            let what = if meta.is_symlink() {
                format!("link to {}", fs::read_link(&path).unwrap().display())
            } else if meta.is_dir() {
                walk(top, &path, tree);
                "directory".to_owned()
            } else {
                fs::read_to_string(&path).unwrap()
            };
            if relative.contains('/') {
                tree.insert(relative, what);
            }
        }
    }
    let mut tree = Tree::new();
    if directory.exists() {
        walk(directory, directory, &mut tree);
    }
    tree
}

/// git keeps no modes worth comparing with, and the rule is short.
fn assert_modes(case: &str, out: &Path, tree: &Tree) {
    for path in tree.keys() {
        let meta = fs::symlink_metadata(out.join(path)).unwrap();
        if !meta.is_symlink() {
            let expected = if meta.is_dir() { 0o755 } else { 0o644 };
            assert_eq!(meta.permissions().mode() & 0o7777, expected, "{case}: mode of {path}");
        }
    }
}

#[test]
fn each_case_gives_exactly_its_golden_tree_however_often_it_runs() {
    let names = entries(&source().join("tests/golden"));
    assert!(names.len() >= 53, "cases are missing: {names:?}");
    for name in names {
        let case = Case::named(&name);
        let root = case.root();
        let out = scratch(&format!("out-{name}-"));
        let (first, second) = (out.path().join("1"), out.path().join("2"));
        let output = case.run(&[GENERATOR], root.path(), &first);
        assert_eq!(output.status.code(), Some(case.status()), "{name}: {output:?}");
        assert!(output.stderr.is_empty() && output.stdout.is_empty(), "{name}: {output:?}");
        if std::env::var_os("ZFS_PREFIX_BLESS").is_some() {
            case.bless(root.path(), &first);
        }
        let tree = tree_of(&first);
        assert_eq!(tree, case.expected(), "{name}: the output");
        assert_modes(&name, &first, &tree);
        assert_eq!(case.kmsg(root.path()), case.read("kmsg", ""), "{name}: the kernel log");
        // daemon-reload: fresh directories; and once more into those that are full already.
        for again in [&second, &first] {
            let output = case.run(&[GENERATOR], root.path(), again);
            assert_eq!(output.status.code(), Some(case.status()), "{name} again: {output:?}");
            assert_eq!(tree_of(again), tree, "{name}: run again into {}", again.display());
        }
    }
}

#[test]
fn without_a_kernel_log_messages_go_to_stderr() {
    let case = Case::named("bad-file");
    let root = case.root();
    fs::remove_file(root.path().join("dev/kmsg")).unwrap();
    let out = scratch("out-");
    let output = case.run(&[GENERATOR], root.path(), out.path());
    assert!(output.status.success(), "{output:?}");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.starts_with("<3>zfs-prefix-generator["), "{stderr}");
    assert!(stderr.contains("config.toml:2:11:"), "{stderr}");
}

#[test]
fn another_number_of_directories_is_a_usage_error() {
    for count in [0, 2, 4] {
        let output = Command::new(GENERATOR).args(vec!["/nonexistent"; count]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{count} directories: {output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).starts_with("usage: "), "{count}");
    }
}

#[test]
fn what_cannot_be_written_is_an_error_that_names_it() {
    let case = Case::named("default");
    let root = case.root();
    // Somebody else's link in the place of ours.
    let out = scratch("out-");
    let wants = out.path().join("normal/zfs-mount.service.wants");
    fs::create_dir_all(&wants).unwrap();
    symlink("/elsewhere", wants.join("zfs-load.service")).unwrap();
    let output = case.run(&[GENERATOR], root.path(), out.path());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let log = case.kmsg(root.path());
    assert!(log.starts_with("<3>") && log.contains("zfs-mount.service.wants"), "{log}");
    // A file where the directory should be.
    let out = scratch("out-");
    fs::create_dir_all(out.path().join("normal")).unwrap();
    fs::write(out.path().join("normal/multi-user.target.wants"), "").unwrap();
    let output = case.run(&[GENERATOR], root.path(), out.path());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

#[test]
fn a_drop_in_of_an_operators_unit_that_cannot_be_written_costs_nothing_else() {
    let case = Case::named("require-pools-for");
    let root = case.root();
    let out = scratch("out-");
    fs::create_dir_all(out.path().join("normal")).unwrap();
    fs::write(out.path().join("normal/docker.service.d"), "in the way").unwrap();
    let output = case.run(&[GENERATOR], root.path(), out.path());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let log = case.kmsg(root.path());
    assert!(log.contains("<3>") && log.contains("boot.require-pools-for: cannot create"), "{log}");
    let mut expected = case.expected();
    expected.retain(|path, _| !path.starts_with("normal/docker.service.d"));
    let mut written = tree_of(out.path());
    written.retain(|path, _| !path.starts_with("normal/docker.service.d"));
    assert_eq!(written, expected);
}

#[test]
fn a_drop_in_that_could_only_be_written_in_part_is_not_left_behind() {
    let case = Case::named("block");
    let root = case.root();
    let out = scratch("out-");
    // RLIMIT_FSIZE (in blocks of 512 bytes for sh) stands for the full disk: write(2) fails.
    let limited = ["sh", "-c", "ulimit -f 0; trap '' XFSZ; exec \"$@\"", "sh", GENERATOR];
    let output = case.run(&limited, root.path(), out.path());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let tree = tree_of(out.path());
    assert!(tree.values().all(|what| what == "directory" || what.starts_with("link")), "{tree:?}");
    assert!(!tree.keys().any(|path| path.contains(".wants/")), "wired half: {tree:?}");
}

#[test]
fn it_starts_no_process_and_opens_nothing_below_var() {
    for name in [
        "block",
        "var-on-pool-fstab",
        "var-on-pool-list",
        "bad-file",
        "datasets-encrypted",
        "links-into-var",
        "lists-in-var",
        "datasets-system-paths",
    ] {
        let case = Case::named(name);
        let root = case.root();
        fs::create_dir_all(root.path().join("var/lib/zfs-prefix/current")).unwrap();
        let out = scratch("out-");
        let trace = out.path().join("trace");
        let calls = "trace=%process,%file";
        let file = trace.to_str().unwrap();
        // Arguments whole: the laboratory may lie below /var.
        let traced = ["strace", "-f", "-s", "4096", "-o", file, "-e", calls, "--", GENERATOR];
        let output = case.run(&traced, root.path(), out.path());
        assert!(output.status.success(), "{name}: strace is needed: {output:?}");
        let trace = fs::read_to_string(&trace).unwrap();
        assert!(trace.contains("/etc/fstab"), "{name}: strace saw nothing:\n{trace}");
        let calls = |name: &str| trace.lines().filter(|l| l.contains(&format!("{name}("))).count();
        assert_eq!(calls("execve") + calls("execveat"), 1, "{name}:\n{trace}");
        let started = calls("fork") + calls("vfork") + calls("clone") + calls("clone3");
        assert_eq!(started, 0, "{name}:\n{trace}");
        let own = [out.path(), Path::new(GENERATOR)];
        let below = lab::strace::below_var(&trace, root.path(), &own);
        assert!(below.is_empty(), "{name}: {below:?}");
    }
}

#[test]
fn the_static_binary_is_smaller_than_700_kb() {
    let target = "x86_64-unknown-linux-musl";
    let arguments = ["build", "--quiet", "--locked", "--profile", "boot", "--target", target];
    let built = Command::new(env!("CARGO"))
        .current_dir(source())
        .args(arguments)
        .args(["--bin", "zfs-prefix-generator", "--message-format", "json"])
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let messages = String::from_utf8(built.stdout).unwrap();
    let executable = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .expect("cargo names the executable");
    let bytes = fs::metadata(&executable).unwrap().len();
    assert!(bytes < 700_000, "{} has {bytes} bytes", executable.display());
}
