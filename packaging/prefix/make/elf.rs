//! Paths in ELF files: interpreter, run path, and what the C library and perl have built in.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use object::Endianness;
use object::elf::{DT_RPATH, DT_RUNPATH, DT_SONAME, FileHeader64, PT_INTERP};
use object::read::elf::{Dyn, FileHeader, ProgramHeader};

use super::tool::output;
use super::tree::{TRIPLET, Tree};

type Header = FileHeader64<Endianness>;

/// What an ELF file says about its loading.
struct Dynamic {
    interpreter: bool,
    run_path: bool,
    /// A library: even with an interpreter (libc.so.6) nobody runs it.
    soname: bool,
}

/// Points every ELF file into the prefix. Executables get its interpreter and a DT_RPATH, which
/// the libraries they load inherit; DT_RUNPATH would not be.
///
/// # Errors
/// A file cannot be read or written, or patchelf refused one.
pub fn relocate(tree: &Tree) -> Result<()> {
    blank(tree)?;
    let patchelf = Patchelf::of(tree)?;
    let loader = tree.at(&format!("usr/lib/{TRIPLET}/ld-linux-x86-64.so.2"));
    for file in tree.files(false)? {
        let bytes = fs::read(&file)?;
        if !bytes.starts_with(b"\x7fELF") || file == loader {
            continue;
        }
        let Some(dynamic) = dynamic(&bytes).with_context(|| file.display().to_string())? else {
            continue;
        };
        if dynamic.interpreter && dynamic.soname {
            fs::write(&file, without_interpreter(bytes)?)?;
        } else if dynamic.interpreter {
            patchelf.run(&["--set-interpreter", &tree.interpreter()], &file)?;
            patchelf.run(&["--force-rpath", "--set-rpath", &tree.libraries()], &file)?;
        } else if dynamic.run_path
            && !patchelf.run(&["--print-rpath"], &file)?.starts_with("$ORIGIN")
        {
            patchelf.run(&["--remove-rpath"], &file)?;
        }
    }
    Ok(())
}

/// The tree's patchelf as it came, in a place where it is not patched itself.
struct Patchelf<'a> {
    tree: &'a Tree,
    dir: tempfile::TempDir,
}

impl Patchelf<'_> {
    fn of(tree: &Tree) -> Result<Patchelf<'_>> {
        let dir = tempfile::tempdir()?;
        for entry in
            ["libc.so.6", "libm.so.6", "libstdc++.so.6", "libgcc_s.so.1", "ld-linux-x86-64.so.2"]
        {
            fs::copy(tree.at(&format!("usr/lib/{TRIPLET}/{entry}")), dir.path().join(entry))?;
        }
        fs::copy(tree.at("usr/bin/patchelf"), dir.path().join("patchelf"))?;
        Ok(Patchelf { tree, dir })
    }

    fn run(&self, args: &[&str], file: &Path) -> Result<String> {
        let at = |name: &str| -> PathBuf { self.dir.path().join(name) };
        let mode = fs::metadata(file)?.permissions().mode();
        let said = output(
            Command::new(at("ld-linux-x86-64.so.2"))
                .env_clear()
                .arg("--library-path")
                .arg(self.dir.path())
                .arg(at("patchelf"))
                .args(args)
                .arg(file),
        )
        .with_context(|| format!("{} in {}", file.display(), self.tree.dir.display()))?;
        fs::set_permissions(file, PermissionsExt::from_mode(mode))?;
        Ok(said)
    }
}

/// None for a file that is not linked dynamically (an object file, a static program).
fn dynamic(bytes: &[u8]) -> Result<Option<Dynamic>> {
    let header = Header::parse(bytes)?;
    let endian = header.endian()?;
    let segments = header.program_headers(endian, bytes)?;
    let interpreter = segments.iter().any(|s| s.p_type(endian) == PT_INTERP);
    let mut table = None;
    for segment in segments {
        table = table.or(segment.dynamic(endian, bytes)?);
    }
    let Some(table) = table else { return Ok(None) };
    let has = |tag| table.iter().any(|d| d.tag(endian) == tag);
    Ok(Some(Dynamic {
        interpreter,
        run_path: has(DT_RPATH) || has(DT_RUNPATH),
        soname: has(DT_SONAME),
    }))
}

/// The file with its PT_INTERP segment made PT_NULL: patchelf moves what libc.so.6 does not
/// survive.
fn without_interpreter(mut bytes: Vec<u8>) -> Result<Vec<u8>> {
    let header = Header::parse(&*bytes)?;
    let endian = header.endian()?;
    let at = header.e_phoff(endian) as usize;
    let size = usize::from(header.e_phentsize(endian));
    let segments = header.program_headers(endian, &*bytes)?;
    let number = segments.iter().position(|s| s.p_type(endian) == PT_INTERP);
    let at = at + number.context("no PT_INTERP")? * size;
    // PT_NULL is 0 in either byte order.
    bytes[at..at + 4].fill(0);
    Ok(bytes)
}

/// Makes the directories that the loader, the C library and perl know of by themselves such that
/// nothing is ever found there: /lib, /usr and /etc are the host's. The strings keep their length.
fn blank(tree: &Tree) -> Result<()> {
    let libraries = format!("usr/lib/{TRIPLET}");
    let l = |name: &str| format!("{libraries}/{name}");
    let perl: &[&str] = &[
        "/etc/perl",
        "/usr/local/lib/x86_64-linux-gnu/perl",
        "/usr/local/share/perl",
        "/usr/lib/x86_64-linux-gnu/perl",
        "/usr/share/perl",
        "/usr/local/lib/site_perl",
    ];
    let loader: &[&str] = &[
        "/lib/x86_64-linux-gnu/",
        "/usr/lib/x86_64-linux-gnu/",
        "/lib/",
        "/usr/lib/",
        "/etc/ld.so.cache",
        "/etc/ld.so.preload",
    ];
    let libc: &[&str] = &["/usr/lib/x86_64-linux-gnu/gconv"];
    for (file, strings) in [
        (l("ld-linux-x86-64.so.2"), loader),
        (l("libc.so.6"), libc),
        ("usr/libexec/prefix/perl".into(), perl),
        (l("libperl.so.5.36"), perl),
    ] {
        let path = fs::canonicalize(tree.at(&file)).with_context(|| file.clone())?;
        let mut bytes = fs::read(&path)?;
        for string in strings {
            // A string of its own begins after a NUL; longer ones with this beginning are meant too.
            let whole = string.ends_with('/') || string.starts_with("/etc/ld.so");
            let found = blank_string(&mut bytes, string, whole);
            ensure!(found > 0 || !whole, "{file}: has no string {string:?}: another C library?");
        }
        fs::write(&path, bytes)?;
    }
    Ok(())
}

/// Replaces the first directory of `string` by as many dots, wherever it stands as a C string
/// (`whole`) or begins one. How often.
fn blank_string(bytes: &mut [u8], string: &str, whole: bool) -> usize {
    let mut needle = vec![0];
    needle.extend(string.bytes());
    if whole {
        needle.push(0);
    }
    let first = string[1..].find('/').unwrap_or(string.len() - 1);
    let mut found = 0;
    let mut at = 0;
    while let Some(next) = memchr_slice(&bytes[at..], &needle) {
        let begin = at + next + 2;
        bytes[begin..begin + first].fill(b'-');
        found += 1;
        at += next + needle.len() - 1;
    }
    found
}

fn memchr_slice(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|w| w == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_directories_lead_nowhere_and_keep_their_length() {
        let mut bytes = b"x\0/lib/\0/usr/lib/\0/lib/x\0".to_vec();
        assert_eq!(blank_string(&mut bytes, "/lib/", true), 1);
        assert_eq!(bytes, b"x\0/---/\0/usr/lib/\0/lib/x\0");
        assert_eq!(blank_string(&mut bytes, "/usr/lib", false), 1);
        assert_eq!(bytes, b"x\0/---/\0/---/lib/\0/lib/x\0");
    }
}
