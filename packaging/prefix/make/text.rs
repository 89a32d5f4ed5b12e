//! Paths in what is not ELF: symlinks, `#!` lines, scripts, linker scripts, pkg-config files.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};

use super::tree::Tree;

/// Makes absolute symlinks relative, and removes those that lead nowhere (to what was left out) or
/// out of the tree, whatever this machine has there.
///
/// # Errors
/// The tree cannot be read or written.
pub fn links(tree: &Tree) -> Result<()> {
    let root = fs::canonicalize(&tree.dir)?;
    let inside = |path: &Path| fs::canonicalize(path).ok().filter(|real| real.starts_with(&root));
    // A link to a link comes right once that one is: as often as there is something to do.
    let mut again = true;
    while again {
        again = false;
        for link in tree.files(true)? {
            let target = fs::read_link(&link)?;
            if !target.is_absolute() || target.starts_with("/etc/alternatives") {
                continue;
            }
            if let Some(real) = inside(&tree.at(&target.to_string_lossy()[1..])) {
                let from = fs::canonicalize(link.parent().context("a link has a directory")?)?;
                fs::remove_file(&link)?;
                std::os::unix::fs::symlink(relative(&from, &real), &link)?;
                again = true;
            }
        }
    }
    for link in tree.files(true)? {
        if inside(&link).is_none() || fs::read_link(&link)?.is_absolute() {
            fs::remove_file(&link)?;
        }
    }
    Ok(())
}

/// The way from the directory `from` to `to`.
fn relative(from: &Path, to: &Path) -> PathBuf {
    let common = from.components().zip(to.components()).take_while(|(a, b)| a == b).count();
    let up = from.components().skip(common).map(|_| Component::ParentDir);
    up.chain(to.components().skip(common)).collect()
}

/// Rewrites the text files.
///
/// # Errors
/// The tree cannot be read or written.
pub fn files(tree: &Tree) -> Result<()> {
    for file in tree.files(false)? {
        let bytes = fs::read(&file)?;
        if bytes.starts_with(b"\x7fELF") || bytes.starts_with(b"!<arch>") {
            continue;
        }
        let Ok(text) = String::from_utf8(bytes) else { continue };
        let ends = |suffix: &str| file.to_string_lossy().ends_with(suffix);
        let new = if text.starts_with("#!") {
            let program =
                file.starts_with(tree.at("usr/bin")) || file.starts_with(tree.at("usr/sbin"));
            script(&text, &tree.eprefix, program)
        } else if ends(".so") || ends(".a") {
            linker_script(&text)
        } else if ends(".pc") {
            text.replace("=/usr", &format!("={}/usr", tree.eprefix))
        } else {
            continue;
        };
        if new != text {
            let mode = fs::metadata(&file)?.permissions().mode();
            fs::write(&file, new)?;
            fs::set_permissions(&file, PermissionsExt::from_mode(mode))?;
        }
    }
    Ok(())
}

/// A script with its interpreter in the prefix, and with `paths` those of its programs and data.
fn script(text: &str, eprefix: &str, paths: bool) -> String {
    let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
    let mut words = first[2..].split_whitespace();
    let mut interpreter = words.next().unwrap_or_default();
    let mut args: Vec<&str> = words.collect();
    if interpreter.ends_with("/env") && !args.is_empty() {
        args.retain(|a| *a != "-S");
        interpreter = args.remove(0);
    }
    let name = interpreter.rsplit('/').next().unwrap_or_default();
    let name = if name == "python" { "python3" } else { name };
    let first = [
        &[format!("{eprefix}/bin/{name}")][..],
        &args.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>(),
    ]
    .concat()
    .join(" ");
    let rest = if paths { absolute_paths(rest, eprefix) } else { rest.to_owned() };
    format!("#!{first}\n{rest}")
}

/// `/usr/bin/…`, `/bin/…` and the like, where a path begins, moved into the prefix.
fn absolute_paths(text: &str, eprefix: &str) -> String {
    const BEGINNINGS: [&str; 6] =
        ["/usr/bin/", "/usr/sbin/", "/usr/share/", "/usr/lib/", "/bin/", "/sbin/"];
    let mut out = String::with_capacity(text.len());
    let mut before = '\n';
    for (at, c) in text.char_indices() {
        // A path begins here, not in the middle of ${prefix}/bin/ or ./bin/.
        let begins = c == '/' && !(before.is_alphanumeric() || "./}~*_)-".contains(before));
        if begins && BEGINNINGS.iter().any(|b| text[at..].starts_with(b)) {
            out.push_str(eprefix);
        }
        out.push(c);
        before = c;
    }
    out
}

/// GROUP ( /lib/…/libc.so.6 … ) with bare names: the linker finds them in its own directories.
fn linker_script(text: &str) -> String {
    if !text.contains("GROUP") && !text.contains("INPUT") {
        return text.to_owned();
    }
    text.split_inclusive(char::is_whitespace)
        .map(|word| {
            if word.starts_with("/lib") || word.starts_with("/usr/lib") {
                word.rsplit('/').next().unwrap_or(word)
            } else {
                word
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_get_their_interpreter_and_paths_from_the_prefix() {
        for (from, want) in [
            (
                "#!/bin/sh\nexec /usr/bin/x ${p}/bin/y\n",
                "#!/E/bin/sh\nexec /E/usr/bin/x ${p}/bin/y\n",
            ),
            ("#! /usr/bin/env python\n", "#!/E/bin/python3\n"),
            ("#!/usr/bin/perl -w\n", "#!/E/bin/perl -w\n"),
            ("#!/usr/bin/env -S awk -f\n", "#!/E/bin/awk -f\n"),
        ] {
            assert_eq!(script(from, "/E", true), want, "{from}");
        }
    }

    #[test]
    fn no_link_leads_out_of_the_tree_whatever_this_machine_has_there() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree { dir: dir.path().join("tree"), eprefix: "/E".to_owned() };
        tree.write("usr/lib/x/ld.so.2", "", 0o755).unwrap();
        for (target, link) in [
            ("/lib64/ld.so", "usr/bin/ld.so"),
            ("/usr/lib/x/ld.so.2", "lib64/ld.so"),
            ("/etc/passwd", "etc/passwd"),
            ("/etc/alternatives/x", "usr/bin/x"),
            ("none", "usr/bin/none"),
        ] {
            tree.link(target, link).unwrap();
        }
        links(&tree).unwrap();
        let found = |link: &str| fs::read_link(tree.at(link)).ok();
        assert_eq!(found("usr/bin/ld.so"), Some("../lib/x/ld.so.2".into()));
        assert_eq!(found("lib64/ld.so"), Some("../usr/lib/x/ld.so.2".into()));
        for link in ["etc/passwd", "usr/bin/x", "usr/bin/none"] {
            assert_eq!(found(link), None, "{link}");
        }
    }

    #[test]
    fn linker_scripts_name_libraries_without_directories() {
        let text = "GROUP ( /lib/x86_64-linux-gnu/libc.so.6 /usr/lib/x/libc_nonshared.a )\n";
        assert_eq!(linker_script(text), "GROUP ( libc.so.6 libc_nonshared.a )\n");
        assert_eq!(relative(Path::new("/a/b/c"), Path::new("/a/d")), Path::new("../../d"));
    }
}
