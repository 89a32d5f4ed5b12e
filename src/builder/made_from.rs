//! What a binary package was made from. vermagic names only the kernel's release, and one release
//! can have several builds. So the ebuild puts digests of what it compiled against beside the
//! modules, under the same signature. These digests have to be those of this machine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::exit::{Exit, WithExit};
use crate::fail;
use crate::prefix::owned::read_plain;

/// The file that the ebuild sys-fs/zfs-kmod writes: lines `NAME VALUE`.
const FILE: &str = "zfs-kmod.inputs";
/// The inputs in it: the name, which is the same as in a build, and words for messages.
const INPUTS: [(&str, &str); 3] = [
    ("kernel-config", "the kernel's .config"),
    ("module-symvers", "the kernel's Module.symvers"),
    ("configure", "portage.extra-econf"),
];
/// Options that say where the maker's kernel tree was. They are no input: they differ from machine
/// to machine.
const PLACES: [&str; 2] = ["--with-linux=", "--with-linux-obj="];

/// Checks what the merged package with these `modules`, all below `top`, was made from. It has to
/// be `inputs`: the inputs of the build that the package replaces.
///
/// # Errors
/// [`Exit::Refused`]: an input differs, or the package does not record it.
pub fn check(
    top: &Path,
    modules: &[PathBuf],
    inputs: &BTreeMap<String, String>,
    url: &str,
) -> Result<()> {
    let beside = modules.iter().find(|path| path.ends_with("zfs.ko")).and_then(|zfs| zfs.parent());
    let Some(path) = beside.map(|dir| dir.join(FILE)) else {
        fail!(Exit::Refused, "the binary package of {url} has no zfs.ko");
    };
    let made_anew = "make it anew, with the ebuild that came with this program";
    let bytes = read_plain(top, &path)
        .with_context(|| {
            format!("the binary package of {url} does not say what it was made from; {made_anew}")
        })
        .exit(Exit::Refused)?;
    let differing = differing(&String::from_utf8_lossy(&bytes), inputs);
    if !differing.is_empty() {
        fail!(
            Exit::Refused,
            "the binary package of {url} was made from something else than what is here: {}; \
             nothing is compiled in its place",
            differing.join(", ")
        );
    }
    Ok(())
}

/// What differs, in words.
fn differing(text: &str, inputs: &BTreeMap<String, String>) -> Vec<String> {
    let mut found = Vec::new();
    for (name, words) in INPUTS {
        let lines = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let theirs = lines.map(plain).next_back();
        let ours = plain(inputs.get(name).map_or("", String::as_str));
        if theirs.as_ref() == Some(&ours) {
            continue;
        }
        found.push(match (name, theirs) {
            (_, None) => format!("{words} (not recorded)"),
            ("configure", Some(theirs)) => format!("{words} ({theirs:?} there, {ours:?} here)"),
            _ => words.to_owned(),
        });
    }
    found
}

/// A value without the options in [`PLACES`].
fn plain(value: &str) -> String {
    let place = |word: &&str| PLACES.iter().any(|option| word.starts_with(option));
    value.split_whitespace().filter(|word| !place(word)).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_made_from_other_inputs_is_refused_by_their_names() {
        let ours = [("kernel-config", "c1"), ("module-symvers", "s1"), ("configure", "--x --y")];
        let ours = ours.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let same = "kernel-config c1\nmodule-symvers s1\nconfigure --with-linux=/a --x  --y\n";
        for (case, from, to, want) in [
            ("the same", "", "", &[][..]),
            ("another tree", "linux=/a", "linux-obj=/b", &[]),
            ("config", "c1", "c2", &["the kernel's .config"]),
            ("symvers", "s1", "s11", &["the kernel's Module.symvers"]),
            ("no line", "module-symvers", "x", &["the kernel's Module.symvers (not recorded)"]),
            ("econf", "--x ", "", &["portage.extra-econf (\"--y\" there, \"--x --y\" here)"]),
        ] {
            assert_eq!(differing(&same.replacen(from, to, 1), &ours), want, "{case}");
        }
        assert_eq!(differing("", &ours).len(), 3);
        let top = tempfile::tempdir().unwrap();
        let zfs = top.path().join("zfs.ko");
        let check = || check(top.path(), std::slice::from_ref(&zfs), &ours, "file:///srv");
        let error = check().unwrap_err();
        assert_eq!(crate::exit::of(&error), Exit::Refused);
        assert!(format!("{error:#}").contains("does not say what it was made from"), "{error:#}");
        std::fs::write(top.path().join(FILE), same).unwrap();
        check().unwrap();
    }
}
