//! What the documents say is what the code does, and the repository keeps its own rules.
#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use zfs_prefix::exit::Exit;

const README: &str = include_str!("../README.md");
const MAN: &str = include_str!("../packaging/man/zfs-prefix.8");

fn repository() -> PathBuf {
    lab::repo()
}

/// Every file of the repository, also those that are about to be added.
fn files() -> Vec<PathBuf> {
    let output = Command::new("git")
        .args(["-c", "safe.directory=*", "ls-files", "-z"])
        .args(["--cached", "--others", "--exclude-standard"])
        .current_dir(repository())
        .output()
        .expect("git");
    assert!(output.status.success(), "{output:?}");
    let names = String::from_utf8(output.stdout).unwrap();
    let names: BTreeSet<&str> = names.split_terminator('\0').collect();
    assert!(names.len() > 100, "only {} files", names.len());
    let files = names.into_iter().map(PathBuf::from);
    files.filter(|name| repository().join(name).is_file()).collect()
}

fn text(file: &Path) -> String {
    let bytes = std::fs::read(repository().join(file)).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The rows `NUMBER <middle> TEXT <end>` of a table.
fn rows(document: &str, begin: &str, middle: &str, end: &str) -> BTreeMap<u8, String> {
    let row = |line: &str| -> Option<(u8, String)> {
        let (number, text) = line.strip_prefix(begin)?.strip_suffix(end)?.split_once(middle)?;
        Some((number.parse().ok()?, text.to_owned()))
    };
    document.lines().filter_map(row).collect()
}

#[test]
fn each_exit_status_has_one_meaning_in_the_code_the_readme_and_the_man_page() {
    let readme = rows(README, "| ", " | ", " |");
    assert_eq!(readme, rows(MAN, "", "\t", ""), "README.md and zfs-prefix(8) differ");
    let meanings = [
        (Exit::Done, "done"),
        (Exit::Other, "other error"),
        (Exit::Usage, "command line"),
        (Exit::NothingPublished, "nothing is published"),
        (Exit::NoKernelSource, "kernel build tree"),
        (Exit::PrefixIncomplete, "prefix"),
        (Exit::NoSymvers, "Module.symvers"),
        (Exit::KernelUnsupported, "does not support this kernel"),
        (Exit::BuildFailed, "emerge failed"),
        (Exit::Refused, "refused by verification"),
        (Exit::SignaturePolicy, "signature policy"),
        (Exit::NoSpace, "space"),
        (Exit::Locked, "another build"),
        (Exit::Network, "network"),
        (Exit::PoolsAbsent, "pools are absent"),
        (Exit::BackingOff, "backing off"),
    ];
    for (exit, words) in meanings {
        let row = readme.get(&exit.code());
        assert!(row.is_some_and(|r| r.contains(words)), "{exit:?} {}: {row:?}", exit.code());
    }
    let variant = |line: &&str| line.starts_with("    ") && line.ends_with(',');
    let source = text(Path::new("src/exit.rs"));
    let codes: BTreeSet<u8> = source
        .lines()
        .filter(variant)
        .filter_map(|line| line.trim_end_matches(',').split_once(" = ")?.1.parse().ok())
        .collect();
    assert_eq!(codes, readme.keys().copied().collect(), "src/exit.rs and the tables");
    assert_eq!(codes.len(), meanings.len());
}

#[test]
fn the_readme_has_every_configuration_key() {
    for key in zfs_prefix::config::keys() {
        assert!(README.contains(&format!("`{key}`")), "{key}");
    }
}

#[test]
fn what_the_readme_tells_to_type_or_to_follow_is_there() {
    let makefile = text(Path::new("Makefile"));
    let targets: BTreeSet<&str> =
        makefile.lines().filter_map(|l| l.split_once(':').map(|(target, _)| target)).collect();
    let mut found = 0;
    for document in [README, &text(Path::new("tests/README.md"))] {
        let typed = ["`make ", "\n    make "].map(|begin| document.split(begin).skip(1));
        for rest in typed.into_iter().flatten() {
            let end =
                rest.find(|c: char| c != '-' && !c.is_ascii_lowercase()).unwrap_or(rest.len());
            assert!(targets.contains(&rest[..end]), "make {}", &rest[..end]);
            found += 1;
        }
    }
    assert!(found >= 10, "{found} commands");
    for link in README.split("](").skip(1).filter_map(|rest| rest.split_once(')')) {
        let there = link.0.starts_with('#') || repository().join(link.0).exists();
        assert!(there, "{}", link.0);
    }
}

#[test]
fn the_list_of_tests_names_every_test() {
    let list = text(Path::new("tests/README.md"));
    for file in files() {
        let here =
            file.parent() == Some(Path::new("tests")) && file.extension() == Some("rs".as_ref());
        let bench = file.starts_with("tests/bench") && !file.ends_with("report.rs");
        let name = file.strip_prefix("tests").unwrap_or(&file).display().to_string();
        assert!(!(here || bench) || list.contains(&format!("`{name}`")), "{name}");
    }
}

#[test]
fn the_man_page_of_the_programs_is_formatted_without_a_warning() {
    let output = Command::new("man")
        .envs([("LC_ALL", "C.UTF-8"), ("MANPAGER", "cat")])
        .args(["--warnings", "-l"])
        .arg(repository().join("packaging/man/zfs-prefix.8"))
        .output()
        .expect("man");
    assert!(output.status.success() && output.stdout.len() > 1000, "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

/// The dialect of a shell script, for shellcheck; `None` for other files.
fn dialect(file: &Path, text: &str) -> Option<&'static str> {
    let first = text.lines().next().unwrap_or_default();
    match first.strip_prefix("#!").map(|line| line.rsplit(['/', ' ']).next()) {
        Some(Some("bash")) => Some("bash"),
        Some(Some("sh" | "dash")) => Some("sh"),
        // Read by the test's bash.
        _ if file.extension() == Some("sh".as_ref()) => Some("bash"),
        _ => None,
    }
}

#[test]
fn shell_scripts_are_short_and_shellcheck_finds_nothing() {
    let mut checked = vec![];
    for file in files() {
        let text = text(&file);
        let Some(dialect) = dialect(&file, &text) else { continue };
        let lines = text.lines().count();
        assert!(lines < 50, "{} has {lines} lines", file.display());
        let output = Command::new("shellcheck")
            .args(["--severity=style", "--shell", dialect])
            .arg(repository().join(&file))
            .output()
            .expect("shellcheck");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{}: {said}", file.display());
        checked.push(file.display().to_string());
    }
    for known in [
        ".ci/run",
        "packaging/setup-debian",
        "packaging/prefix/make/files/fetch",
        "packaging/prefix/make/files/startprefix",
        "tests/lab/guest/init",
        "tests/lab/guest/prelude.sh",
    ] {
        assert!(checked.contains(&known.to_owned()), "{known} was not checked: {checked:?}");
    }
}

#[test]
fn files_of_the_library_are_under_500_lines_and_mains_at_most_40() {
    let mut mains = 0;
    for file in files().iter().filter(|f| f.extension() == Some("rs".as_ref())) {
        let lines = text(file).lines().count();
        let main = file.starts_with("src/bin") || file.starts_with("generators");
        mains += usize::from(main);
        let most = if main { 40 } else { 499 };
        let counts = main || file.starts_with("src");
        assert!(!counts || lines <= most, "{} has {lines} lines", file.display());
    }
    assert_eq!(mains, 4, "one for each program");
}

#[test]
fn no_file_has_the_marks_of_a_merge_that_was_not_finished() {
    let marks = ["<", "=", ">"].map(|c| c.repeat(7));
    for file in files() {
        for (number, line) in text(&file).lines().enumerate() {
            let marked = marks.iter().any(|m| line == m || line.starts_with(&format!("{m} ")));
            assert!(!marked, "{}:{}: {line}", file.display(), number + 1);
        }
    }
}

#[test]
fn no_file_names_a_registry_or_a_mirror() {
    // Put together here, or this file would name them.
    let hosts = [
        ["debian", "org"],
        ["pypi", "org"],
        ["pythonhosted", "org"],
        ["crates", "io"],
        ["gentoo", "org"],
        ["rustup", "rs"],
    ]
    .map(|words| words.join("."));
    let index = format!("source = \"registry+https://github.com/rust-lang/{}-index\"", hosts[3]);
    for file in files() {
        for (number, line) in text(&file).lines().enumerate() {
            let of_cargo = file.ends_with("Cargo.lock") && line == index;
            let host = hosts.iter().find(|host| line.contains(host.as_str()));
            assert!(of_cargo || host.is_none(), "{}:{}: {line}", file.display(), number + 1);
        }
    }
}
