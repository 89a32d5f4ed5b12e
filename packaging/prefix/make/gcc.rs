//! The compiler's specs file: what it links runs on the prefix's interpreter and C library.

use anyhow::{Context, Result, bail, ensure};

use super::tool::output;
use super::tree::{TRIPLET, Tree};

/// What Debian's gcc has as dynamic linker.
const HOSTS: &str = ":/lib64/ld-linux-x86-64.so.2";

/// Writes the specs file beside cc1 ("Specifying Subprocesses and the Switches to Pass to Them",
/// gcc manual), from the compiler's own. To be called before the compiler is relocated.
///
/// # Errors
/// The compiler does not run, or its specs are not as expected.
pub fn specs(tree: &Tree) -> Result<()> {
    let driver = format!("usr/bin/{TRIPLET}-gcc-12");
    let built_in = output(tree.command(&driver).arg("-dumpspecs"))?;
    ensure!(built_in.contains(HOSTS), "gcc's specs name no {HOSTS}");
    let (prefix, libraries) = (&tree.eprefix, tree.libraries());
    let mut specs = built_in.replace(HOSTS, &format!(":{}", tree.interpreter()));
    // Headers, and the linker's = directories; --sysroot of the caller wins.
    prepend(&mut specs, "self_spec", &format!("%{{!-sysroot=*:--sysroot={prefix}}} "))?;
    // The driver passes --sysroot to the linker only when it was configured with one. What is
    // linked finds its libraries by DT_RPATH, as every program of the prefix does.
    let run_path = format!(
        "%{{!shared:%{{!static:%{{!static-pie:%{{!r:--disable-new-dtags -rpath {libraries}}}}}}}}} "
    );
    let link = format!("%{{-sysroot=*:--sysroot=%*}} -rpath-link {libraries} {run_path}");
    prepend(&mut specs, "link", &link)?;
    // crt1.o, crti.o, crtn.o.
    replace(&mut specs, "startfile_prefix_spec", &format!("{libraries}/ {prefix}/usr/lib/"))?;
    tree.write(&format!("usr/lib/gcc/{TRIPLET}/12/specs"), &specs, 0o644)
}

/// Puts `text` before what the spec `name` says.
fn prepend(specs: &mut String, name: &str, text: &str) -> Result<()> {
    let at = body(specs, name)?;
    specs.insert_str(at, text);
    Ok(())
}

/// Puts `text` in place of what the spec `name` says.
fn replace(specs: &mut String, name: &str, text: &str) -> Result<()> {
    let at = body(specs, name)?;
    let end = specs[at..].find('\n').context("a spec ends with a line")? + at;
    specs.replace_range(at..end, text);
    Ok(())
}

/// Where the line after `*name:` begins.
fn body(specs: &str, name: &str) -> Result<usize> {
    let head = format!("*{name}:\n");
    match specs.find(&head) {
        Some(at) => Ok(at + head.len()),
        None => bail!("gcc's specs have no {name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs_are_changed_where_they_begin() {
        let mut specs = "*asm:\n%{m}\n\n*link:\n%{a}\n\n*startfile:\n\n".to_owned();
        prepend(&mut specs, "link", "X ").unwrap();
        replace(&mut specs, "startfile", "Y").unwrap();
        assert_eq!(specs, "*asm:\n%{m}\n\n*link:\nX %{a}\n\n*startfile:\nY\n");
        assert!(prepend(&mut specs, "none", "").is_err());
    }
}
