//! What the documents say is what the code does, and the repository keeps its own rules.
#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use zfs_prefix::exit::Exit;

const MAN: &str = include_str!("../packaging/man/zfs-prefix.8");
const MAN_OF_KEYS: &str = include_str!("../packaging/man/zfs-prefix.toml.5");
const EXAMPLE: &str = include_str!("../packaging/config.toml.example");

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

/// All documents that are Markdown, by their names.
fn documents() -> BTreeMap<PathBuf, String> {
    let files = files().into_iter().filter(|f| f.extension() == Some("md".as_ref()));
    files.map(|file| (file.clone(), text(&file))).collect()
}

/// The lines of a document that are no code, with their numbers: neither fenced nor indented.
fn prose(document: &str) -> impl Iterator<Item = (usize, &str)> {
    let (mut fenced, mut code, mut blank) = (false, false, true);
    document.lines().enumerate().filter_map(move |(number, line)| {
        let fence = line.starts_with("```");
        fenced ^= fence;
        // After a line of text these blanks are the indentation of a list.
        code = line.starts_with("    ") && (blank || code);
        blank = line.is_empty();
        (!fenced && !fence && !code).then_some((number + 1, line))
    })
}

/// What a Markdown document may be linked to at: its headings, as they are spelled in links.
fn anchors(document: &str) -> BTreeSet<String> {
    let headings = prose(document).filter_map(|(_, line)| {
        line.trim_start_matches('#').strip_prefix(' ').filter(|_| line.starts_with('#'))
    });
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, '-' | '_' | ' ');
    headings
        .map(|h| h.to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-"))
        .collect()
}

/// The lines between the line `begin` and the next one that begins with `next`.
fn part<'a>(document: &'a str, begin: &str, next: &str) -> Vec<&'a str> {
    let lines = document.lines().skip_while(|line| *line != begin).skip(1);
    lines.take_while(|line| !line.starts_with(next)).collect()
}

#[test]
fn each_exit_status_has_one_meaning_in_the_code_and_the_man_page() {
    let row = |line: &str| -> Option<(u8, String)> {
        let (number, text) = line.split_once('\t')?;
        Some((number.parse().ok()?, text.to_owned()))
    };
    let table = part(MAN, ".SH EXIT STATUS", ".SH");
    let rows: Vec<(u8, String)> = table.into_iter().filter_map(row).collect();
    let table: BTreeMap<u8, String> = rows.iter().cloned().collect();
    assert_eq!(table.len(), rows.len(), "a status twice");
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
        let row = table.get(&exit.code());
        assert!(row.is_some_and(|r| r.contains(words)), "{exit:?} {}: {row:?}", exit.code());
    }
    let variant = |line: &&str| line.starts_with("    ") && line.ends_with(',');
    let source = text(Path::new("src/exit.rs"));
    let codes: BTreeSet<u8> = source
        .lines()
        .filter(variant)
        .filter_map(|line| line.trim_end_matches(',').split_once(" = ")?.1.parse().ok())
        .collect();
    assert_eq!(codes, table.keys().copied().collect(), "src/exit.rs and zfs-prefix(8)");
    assert_eq!(codes.len(), meanings.len());
}

#[test]
fn every_configuration_key_is_in_the_man_page_and_the_example_and_no_document_has_another() {
    let page = MAN_OF_KEYS.replace("\\-", "-");
    let keys: BTreeSet<&str> = zfs_prefix::config::keys().collect();
    for key in &keys {
        let (section, name) = key.split_once('.').unwrap();
        let described = part(&page, &format!(".SS [{section}]"), ".S");
        let begin = format!(".BR {name} \" ");
        assert!(described.iter().any(|line| line.starts_with(&begin)), "{key}: zfs-prefix.toml(5)");
        let shown = part(EXAMPLE, &format!("#[{section}]"), "#[");
        let begin = format!("#{name} = ");
        assert!(shown.iter().any(|line| line.starts_with(&begin)), "{key}: config.toml.example");
    }
    let sections: BTreeSet<&str> = keys.iter().filter_map(|key| key.split('.').next()).collect();
    // Files, units and parameters of the module.
    let others = ["rs", "ko", "target", "zfs_arc_max"];
    let mut found = 0;
    for (file, document) in documents() {
        for word in document.split('`').skip(1).step_by(2) {
            let end = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
            let word = word.split(end).next().unwrap_or_default();
            let Some((section, name)) = word.split_once('.') else { continue };
            if !sections.contains(section) || name.is_empty() || others.contains(&name) {
                continue;
            }
            assert!(keys.contains(word), "{}: `{word}`", file.display());
            found += 1;
        }
    }
    assert!(found >= 20, "{found} keys");
}

#[test]
fn what_the_documents_tell_to_make_can_be_made() {
    let makefile = text(Path::new("Makefile"));
    let targets: BTreeSet<&str> =
        makefile.lines().filter_map(|l| l.split_once(':').map(|(target, _)| target)).collect();
    let mut found = 0;
    for (file, document) in documents() {
        let typed = ["`make ", "\n    make "].map(|begin| document.split(begin).skip(1));
        for rest in typed.into_iter().flatten() {
            let end =
                rest.find(|c: char| c != '-' && !c.is_ascii_lowercase()).unwrap_or(rest.len());
            assert!(targets.contains(&rest[..end]), "{}: make {}", file.display(), &rest[..end]);
            found += 1;
        }
    }
    assert!(found >= 20, "{found} commands");
}

#[test]
fn the_links_of_the_documents_lead_to_files_and_headings() {
    let documents = documents();
    let mut found = 0;
    for (file, document) in &documents {
        let shown = file.display();
        for (number, line) in prose(document) {
            let links = line.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
            for (link, _) in links.filter(|(link, _)| !link.contains("://")) {
                let (name, heading) = link.split_once('#').unwrap_or((link, ""));
                let at = if name.is_empty() { file.clone() } else { beside(file, name) };
                assert!(repository().join(&at).exists(), "{shown}:{number}: {link}");
                let known = documents.get(&at).map(|d| anchors(d)).unwrap_or_default();
                let there = heading.is_empty() || known.contains(heading);
                assert!(there, "{shown}:{number}: {link}: {known:?}");
                found += 1;
            }
        }
    }
    assert!(found >= 40, "{found} links");
}

/// The file that a link in `document` leads to.
fn beside(document: &Path, link: &str) -> PathBuf {
    let mut at = document.parent().map(Path::to_owned).unwrap_or_default();
    for name in Path::new(link) {
        if name == ".." {
            assert!(at.pop(), "{}: {link} leads out of the repository", document.display());
        } else {
            at.push(name);
        }
    }
    at
}

#[test]
fn the_readme_is_short_and_so_are_the_lines_of_all_documents() {
    let documents = documents();
    let readme = &documents[Path::new("README.md")];
    assert!(readme.lines().count() <= 120, "README.md has {} lines", readme.lines().count());
    for (file, document) in &documents {
        let lines: Vec<(usize, &str)> = if file == Path::new("README.md") {
            document.lines().enumerate().map(|(number, line)| (number + 1, line)).collect()
        } else {
            prose(document).filter(|(_, line)| !line.starts_with('|')).collect()
        };
        for (number, line) in lines {
            assert!(line.chars().count() <= 100, "{}:{number}: {line}", file.display());
        }
    }
}

#[test]
fn every_benchmark_has_its_figures() {
    let makefile = text(Path::new("Makefile"));
    let run = makefile.split_once("for b in ").and_then(|(_, rest)| rest.split_once(';')).unwrap();
    let mut run: Vec<&str> = run.0.split_whitespace().collect();
    let figures = text(Path::new("docs/benchmarks.md"));
    let marks = figures.split("<!-- bench:").skip(1);
    let mut marks: Vec<&str> = marks.filter_map(|rest| Some(rest.split_once(" -->")?.0)).collect();
    for list in [&mut run, &mut marks] {
        list.sort_unstable();
    }
    assert_eq!(marks, run);
    for table in figures.split("<!-- bench:").skip(1) {
        assert!(table.contains("\n|---|"), "{table}");
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
            let locks = ["Cargo.lock", "fuzz/Cargo.lock"].map(Path::new);
            let of_cargo = locks.contains(&file.as_path()) && line == index;
            let host = hosts.iter().find(|host| line.contains(host.as_str()));
            assert!(of_cargo || host.is_none(), "{}:{}: {line}", file.display(), number + 1);
        }
    }
}
