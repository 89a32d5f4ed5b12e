//! Works in the prefix, as its owner. Strips the programs, binds them to the place where root will
//! publish them, and puts every library they need beside them. Root trusts nothing of this
//! afterwards ([`super::verify()`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{LIBRARIES, interpreter, run_path, select};
use crate::elf::{Elf, Kind};
use crate::exit::{Exit, WithExit};
use crate::prefix::Prefix;
use crate::prefix::enter::Place;
use crate::prefix::owned::open_plain;
use crate::process::{Cancel, Run};

/// How long a chain of libraries that need libraries may be.
const MAX_ROUNDS: usize = 16;
/// How long a step may print nothing. It works on 40 files.
const STEP: Duration = Duration::from_secs(120);
/// libc loads it with dlopen(3) when a thread is cancelled (pthread_cancel(3)). zed does that.
const UNWINDER: &str = "libgcc_s.so.1";
/// Copies the libraries that the compiler finds by these names.
const COLLECT: &str = r#"dir=$1; shift
for name; do
    from=$(gcc -print-file-name="$name") || exit
    case $from in /*) ;; *) echo "gcc finds no library $name in the prefix"; exit 1 ;; esac
    cp --dereference --no-preserve=mode "$from" "$dir/$name" || exit
done"#;

/// Binds what is installed in `dir`, which is below the work directory `top`.
///
/// # Errors
/// [`Exit::PrefixIncomplete`]: a library or a tool is missing. [`Exit::Refused`]: a file is
/// damaged.
pub(crate) fn bind(
    prefix: &Prefix,
    place: &Place,
    top: &Path,
    dir: &Path,
    cancel: &Cancel,
) -> Result<()> {
    let step = |program: &str| prefix.run(program, place).dir(dir).idle(STEP);
    let run = |run: Run, what: &str| {
        run.output(cancel).with_context(|| what.to_owned()).exit(Exit::PrefixIncomplete).map(drop)
    };
    let own = elves(top, dir)?;
    ensure!(!own.is_empty(), "{}: the build installed no program", dir.display());
    let strip = step("strip").arg("--strip-unneeded").args(own.keys());
    run(strip, "stripping OpenZFS's programs")?;
    collect(&own, top, dir, |names| {
        let collect = step("bash").args(["-c", COLLECT, "bash", LIBRARIES]).args(names);
        run(collect, "collecting the libraries of OpenZFS's programs")
    })?;
    for (options, files) in patches(&elves(top, dir)?) {
        let patchelf = step("patchelf").args(&options).args(files);
        run(patchelf, "binding OpenZFS's programs")?;
    }
    Ok(())
}

/// Copies the needed libraries that are not there, until none is missing.
fn collect(
    own: &BTreeMap<PathBuf, Elf>,
    top: &Path,
    dir: &Path,
    copy: impl Fn(&BTreeSet<PathBuf>) -> Result<()>,
) -> Result<()> {
    let interpreters = own.values().filter_map(|elf| elf.interpreter.as_ref()?.file_name());
    let always: Vec<PathBuf> =
        interpreters.map(PathBuf::from).chain([PathBuf::from(UNWINDER)]).collect();
    for _ in 0..MAX_ROUNDS {
        let elves = elves(top, dir)?;
        let needed = elves.values().flat_map(|elf| &elf.needed).chain(&always);
        // A name with a directory in it is refused later (verify).
        let missing: BTreeSet<PathBuf> = needed
            .filter(|name| name.components().count() == 1)
            .filter(|name| fs::symlink_metadata(dir.join(LIBRARIES).join(name)).is_err())
            .cloned()
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        copy(&missing)?;
    }
    anyhow::bail!("{}: libraries need libraries without end", dir.display())
}

/// All programs and libraries that will be published, relative to `dir`. Symlinks are left out.
fn elves(top: &Path, dir: &Path) -> Result<BTreeMap<PathBuf, Elf>> {
    let mut all = BTreeMap::new();
    for path in select::files(dir).exit(Exit::Refused)? {
        all.extend(elf(top, &dir.join(&path)).exit(Exit::Refused)?.map(|elf| (path, elf)));
    }
    Ok(all)
}

/// The ELF file at `path`. None if it is a link, or no ELF file.
fn elf(top: &Path, path: &Path) -> Result<Option<Elf>> {
    let shown = || format!("{}", path.display());
    if !fs::symlink_metadata(path).with_context(shown)?.is_file() {
        return Ok(None);
    }
    Elf::open(&open_plain(top, path)?).with_context(shown)
}

/// What patchelf(1) has to do: options, and the files they are for.
fn patches(elves: &BTreeMap<PathBuf, Elf>) -> BTreeMap<Vec<PathBuf>, Vec<PathBuf>> {
    let mut all: BTreeMap<Vec<PathBuf>, Vec<PathBuf>> = BTreeMap::new();
    for (path, elf) in elves {
        let options: Vec<PathBuf> = match (elf.kind, &elf.interpreter) {
            (Kind::Program, Some(named)) => vec![
                "--set-interpreter".into(),
                interpreter(named.file_name().unwrap_or_default()),
                "--force-rpath".into(),
                "--set-rpath".into(),
                run_path(path),
            ],
            // The C library and the interpreter have no run path, and patchelf would break them.
            (Kind::Library, _) if !elf.rpath.is_empty() || !elf.runpath.is_empty() => {
                vec!["--remove-rpath".into()]
            }
            _ => continue,
        };
        all.entry(options).or_default().push(path.clone());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elf(kind: Kind, interpreter: Option<&str>, runpath: &[&str]) -> Elf {
        Elf {
            kind,
            interpreter: interpreter.map(PathBuf::from),
            rpath: vec![],
            runpath: runpath.iter().map(PathBuf::from).collect(),
            needed: vec!["libc.so.6".into()],
            soname: None,
            besides: vec![],
        }
    }

    #[test]
    fn programs_are_bound_by_their_directory_and_libraries_lose_their_run_paths() {
        let elves = BTreeMap::from([
            ("sbin/zfs".into(), elf(Kind::Program, Some("/p/lib/ld.so.2"), &["/p"])),
            ("sbin/zpool".into(), elf(Kind::Program, Some("/p/lib/ld.so.2"), &[])),
            ("lib/udev/zvol_id".into(), elf(Kind::Program, Some("/p/lib/ld.so.2"), &[])),
            ("lib/libzfs.so.6".into(), elf(Kind::Library, None, &["/p"])),
            ("lib/libc.so.6".into(), elf(Kind::Library, None, &[])),
        ]);
        let found: Vec<String> = patches(&elves)
            .into_iter()
            .map(|(options, files)| format!("{options:?} {files:?}").replace('"', ""))
            .collect();
        let interpreter = "[--set-interpreter, /run/zfs-prefix/active/userland/lib/ld.so.2, --force-rpath, --set-rpath";
        assert_eq!(
            found,
            [
                "[--remove-rpath] [lib/libzfs.so.6]".to_owned(),
                format!("{interpreter}, $ORIGIN/../../lib] [lib/udev/zvol_id]"),
                format!("{interpreter}, $ORIGIN/../lib] [sbin/zfs, sbin/zpool]"),
            ]
        );
    }

    #[test]
    fn libraries_are_collected_until_none_is_missing() {
        let top = tempfile::tempdir().unwrap();
        let dir = top.path().join("userland");
        for sub in ["lib", "sbin"] {
            fs::create_dir_all(dir.join(sub)).unwrap();
        }
        fs::copy("/proc/self/exe", dir.join("sbin/zpool")).unwrap();
        let own = elves(top.path(), &dir).unwrap();
        let rounds = std::cell::RefCell::new(Vec::new());
        collect(&own, top.path(), &dir, |names| {
            for name in names {
                fs::copy(
                    Path::new("/lib/x86_64-linux-gnu").join(name),
                    dir.join("lib").join(name),
                )?;
            }
            rounds.borrow_mut().push(names.clone());
            Ok(())
        })
        .unwrap();
        let first = &rounds.borrow()[0];
        for name in ["libc.so.6", "libgcc_s.so.1", "ld-linux-x86-64.so.2"] {
            assert!(first.contains(Path::new(name)), "{name}: {first:?}");
        }
        let endless = collect(&own, top.path(), Path::new("/nowhere"), |_| Ok(()));
        assert!(endless.is_err());
    }
}
