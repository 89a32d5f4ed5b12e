//! The `#!` lines of executable scripts (execve(2)). They must not run an interpreter of the host.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::findings::{Findings, not_run};
use super::report::Check;
use super::toolchain;
use super::tree::{Content, Entry, Kind, Place, Tree};
use super::walk::SCRIPT_HEAD;

/// Every host has these. In a build, the prefix's own ones cover them.
const COVERED: [&str; 3] = ["sh", "bash", "env"];

/// Checks every script of the tree. Returns how many there are.
pub(super) fn check(found: &mut Findings) -> usize {
    let tree = found.tree;
    let mut scripts = 0;
    for (path, entry) in &tree.entries {
        let Kind::File(Content::Script(line)) = &entry.kind else { continue };
        scripts += 1;
        if !not_run(path)
            && let Some((problem, cure)) = problem(tree, line)
        {
            found.error(Check::Script, path, problem, cure);
        }
    }
    scripts
}

/// What is wrong with the line after `#!`, and the cure.
fn problem(tree: &Tree, line: &[u8]) -> Option<(String, String)> {
    if line.len() + 2 >= SCRIPT_HEAD {
        return Some((
            format!("its first line is longer than the kernel reads ({} bytes)", SCRIPT_HEAD - 1),
            "start it by a launcher with a short first line".to_owned(),
        ));
    }
    let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let interpreter = Path::new(OsStr::from_bytes(words.next()?));
    if !interpreter.is_absolute() {
        // A template (@PERL@), or a name that the kernel does not look for in PATH: no program of
        // the host's is run by it.
        return None;
    }
    match tree.resolve(interpreter) {
        Place::Here(_, entry) if runnable(entry) => match interpreter.file_name() {
            Some(name) if name == "env" => through_env(tree, words),
            _ => None,
        },
        Place::Here(..) => Some((
            format!("its interpreter {} is no executable file", interpreter.display()),
            "mend the interpreter's mode, or the first line".to_owned(),
        )),
        Place::Missing(at) => Some((
            format!("its interpreter {} is not there", at.display()),
            "emerge the interpreter's package, or mend the first line".to_owned(),
        )),
        Place::Outside(host) => match covered(&host) {
            Some("env") => through_env(tree, words),
            Some(_) => None,
            None => Some((
                format!("is run by the host's {}", interpreter.display()),
                cure(tree, interpreter),
            )),
        },
    }
}

/// Whether the kernel can take it as an interpreter.
fn runnable(entry: &Entry) -> bool {
    matches!(entry.kind, Kind::File(_)) && entry.executable()
}

fn covered(path: &Path) -> Option<&str> {
    let dir = path.parent()?;
    let name = path.file_name()?.to_str()?;
    let covered = COVERED.contains(&name) && ["/bin", "/usr/bin"].map(Path::new).contains(&dir);
    covered.then_some(name)
}

/// env(1) looks for the program in PATH, which is the prefix's: it has to be there.
fn through_env<'w>(
    tree: &Tree,
    mut words: impl Iterator<Item = &'w [u8]>,
) -> Option<(String, String)> {
    let option = |word: &&[u8]| word.starts_with(b"-") || word.contains(&b'=');
    let name = Path::new(OsStr::from_bytes(words.find(|word| !option(word))?));
    if toolchain::program(tree, name).is_some() {
        return None;
    }
    Some((
        format!("env(1) finds no {} in the prefix", name.display()),
        format!("emerge the package of {}, or mend the first line", name.display()),
    ))
}

fn cure(tree: &Tree, interpreter: &Path) -> String {
    let name = PathBuf::from(interpreter.file_name().unwrap_or_default());
    match toolchain::program(tree, &name) {
        Some((path, _)) => format!("begin it with #!{}", tree.absolute(&path).display()),
        None => format!("emerge a {} and begin it with that one's path", name.display()),
    }
}
