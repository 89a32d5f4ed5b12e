//! Tests the toolchain at work. Its programs are run. A program that it compiles has to be one of
//! the prefix and not of the host.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::Options;
use super::findings::Findings;
use super::programs::Programs;
use super::report::Check;
use super::toolchain::program;
use super::tree::{Place, Tree};
use crate::elf::Elf;
use crate::exit::{self, Exit};
use crate::kernel::compiler_mismatch;

/// Prints what is mapped into it (proc_pid_maps(5)).
const SOURCE: &str = "#include <stdio.h>\n\
    int main(void)\n{\n\tint c;\n\tFILE *maps = fopen(\"/proc/self/maps\", \"r\");\n\
    \tif (!maps)\n\t\treturn 1;\n\twhile ((c = getc(maps)) != EOF)\n\t\tputchar(c);\n\
    \treturn fclose(maps);\n}\n";
/// Run with `--version`; gcc comes first by itself.
const PROGRAMS: [&str; 6] = ["as", "ld", "make", "bash", "depmod", "emerge"];
/// What gcc starts or links, and the option that says which.
const PARTS: [(&str, &str); 8] = [
    ("-print-prog-name=", "cc1"),
    ("-print-prog-name=", "collect2"),
    ("-print-prog-name=", "as"),
    ("-print-prog-name=", "ld"),
    ("-print-file-name=", "crt1.o"),
    ("-print-file-name=", "crti.o"),
    ("-print-file-name=", "crtn.o"),
    ("-print-file-name=", "libc.so.6"),
];

/// Runs the programs. Returns the compiler line, if there is one.
///
/// # Errors
/// A failure that is no fault of the tree: nobody can enter it on this machine, or the disk is
/// full.
pub(super) fn check(
    found: &mut Findings,
    root: &Path,
    options: &Options,
) -> Result<Option<String>> {
    let tree = found.tree;
    let programs = match Programs::enter(
        tree,
        root,
        options.host,
        options.cancel,
        Some(("probe.c", SOURCE)),
    ) {
        Ok(programs) => programs,
        Err(error) if exit::of(&error) != Exit::PrefixIncomplete => {
            return Err(error.context("its programs cannot be run on this machine"));
        }
        Err(error) => {
            let problem = format!("its programs were not run: {error:#}");
            let cure = if nix::unistd::geteuid().is_root() {
                "mend what this says, and audit again"
            } else {
                "run the audit as root"
            };
            found.error(Check::Probe, Path::new(""), problem, cure);
            return Ok(None);
        }
    };
    let mut said = HashSet::new();
    let mut failed = |path: &Path, error: anyhow::Error| {
        // If nothing can be run, every program says the same. It is reported once.
        if !said.insert(format!("{error:#}")) {
            return;
        }
        let cure = "mend what the other findings say of it and of its libraries, or provision a complete prefix";
        found.error(Check::Probe, path, format!("does not work: {error:#}"), cure);
    };
    for name in PROGRAMS {
        if let Some((path, _)) = program(tree, Path::new(name))
            && let Err(error) = programs.run(&tree.absolute(&path), &["--version"])
        {
            failed(&path, error);
        }
    }
    let Some((gcc, _)) = program(tree, Path::new("gcc")) else { return Ok(None) };
    let command = tree.absolute(&gcc);
    let compiler = match programs.run(&command, &["--version"]) {
        Ok(text) => text.lines().next().unwrap_or_default().to_owned(),
        Err(error) => {
            failed(&gcc, error);
            return Ok(None);
        }
    };
    parts(found, &programs, &gcc, &command);
    if let Err(error) = compile_and_run(tree, &programs, &command) {
        if exit::of(&error) == Exit::NoSpace {
            return Err(error);
        }
        let cure = "mend what the other findings say; otherwise gcc's specs file has to name interpreter, start files and libraries of the prefix";
        found.error(Check::Probe, &gcc, format!("{error:#}"), cure);
    }
    let kernel = options.kernel_compiler.as_deref();
    if let Some(mismatch) = kernel.and_then(|kernel| compiler_mismatch(kernel, &compiler)) {
        let cure = "provision a prefix with that major version of gcc";
        found.warning(Check::Compiler, &gcc, mismatch, cure);
    }
    Ok(Some(compiler))
}

/// Asks gcc where its parts are. One shell asks for all of them, since each entering of the prefix
/// costs time.
fn parts(found: &mut Findings, programs: &Programs, gcc: &Path, command: &Path) {
    const SCRIPT: &str = "gcc=$1; shift; for option; do \"$gcc\" \"$option\" || exit; done";
    let bash = found.tree.eprefix.join("bin/bash");
    let options = PARTS.map(|(option, name)| format!("{option}{name}"));
    let command = command.to_string_lossy();
    let mut args = vec!["-c", SCRIPT, "bash", &command];
    args.extend(options.iter().map(String::as_str));
    let cure = "provision a complete prefix, or mend gcc's specs file";
    let said = programs.run(&bash, &args).unwrap_or_else(|error| format!("{error:#}"));
    if said.lines().count() != PARTS.len() {
        let problem = format!("does not say where its parts are: {}", said.trim());
        return found.error(Check::Probe, gcc, problem, cure);
    }
    for ((_, name), said) in PARTS.iter().zip(said.lines()) {
        let problem = match found.tree.resolve(Path::new(said)) {
            // If gcc names no directory, it has none of its own and takes the one of PATH.
            _ if said == *name && ["as", "ld"].contains(name) => continue,
            _ if !said.starts_with('/') => format!("finds no {name} of its own (says {said:?})"),
            Place::Here(..) => continue,
            Place::Missing(at) => format!("takes {name} from {}, which is not there", at.display()),
            Place::Outside(host) => format!("takes {name} from the host: {}", host.display()),
        };
        found.error(Check::Probe, gcc, problem, cure);
    }
}

/// Compiles [`SOURCE`] and runs it.
fn compile_and_run(tree: &Tree, programs: &Programs, gcc: &Path) -> Result<()> {
    programs.run(gcc, &["-o", "probe", "probe.c"]).context("cannot compile a program")?;
    let path = programs.work().join("probe");
    let elf = read(&path).context("the program that it compiled")?;
    let interpreter = elf.interpreter.context("what it compiles has no ELF interpreter")?;
    let Place::Here(interpreter, _) = tree.resolve(&interpreter) else {
        anyhow::bail!(
            "what it compiles has the interpreter {}, which is not in the prefix",
            interpreter.display()
        );
    };
    let maps = programs.run(&path, &[]).context("what it compiles does not run")?;
    let mapped: Vec<&Path> = maps.lines().filter_map(mapped_file).collect();
    let own = std::fs::canonicalize(&path).unwrap_or(path);
    let host = mapped.iter().find(|file| **file != own && tree.relative(file).is_none());
    if let Some(host) = host {
        anyhow::bail!("what it compiles has the host's {} mapped when it runs", host.display());
    }
    let inside: Vec<&Path> = mapped.iter().filter_map(|file| tree.relative(file)).collect();
    ensure!(
        inside.contains(&interpreter.as_path()),
        "what it compiles does not have {} mapped when it runs",
        tree.absolute(&interpreter).display()
    );
    let libc = |file: &&Path| file.file_name().is_some_and(|name| is_libc(&name.to_string_lossy()));
    ensure!(inside.iter().any(libc), "what it compiles does not have a libc of the prefix mapped");
    Ok(())
}

fn is_libc(name: &str) -> bool {
    name.starts_with("libc.so") || name.starts_with("libc-") || name.starts_with("libc.musl")
}

/// The file of a line of /proc/PID/maps: the sixth field, if it is one.
fn mapped_file(line: &str) -> Option<&Path> {
    line.find('/').map(|at| Path::new(&line[at..]))
}

/// Reads the program as its owner left it, not through a link.
fn read(path: &Path) -> Result<Elf> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let mut file = File::options().read(true).custom_flags(flags).open(path)?;
    ensure!(file.metadata()?.is_file(), "not a plain file");
    let mut head = [0; 64];
    file.read_exact(&mut head).context("no ELF file")?;
    ensure!(head.starts_with(b"\x7fELF"), "no ELF file");
    Elf::read(&head, &file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_in_lines_of_maps_and_nothing_else_is() {
        for (line, want) in [
            ("7f1-7f2 r-xp 00028000 fe:00 1234   /e/lib/libc.so.6", Some("/e/lib/libc.so.6")),
            ("7f1-7f2 r--p 00000000 fe:00 1   /tmp/a b (deleted)", Some("/tmp/a b (deleted)")),
            ("7ffd-7ffe rw-p 00000000 00:00 0   [stack]", None),
            ("7f1-7f2 rw-p 00000000 00:00 0 ", None),
        ] {
            assert_eq!(mapped_file(line), want.map(Path::new), "{line}");
        }
    }
}
