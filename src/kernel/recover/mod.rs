//! Module.symvers of a kernel that was built elsewhere, from what is shipped of it: the export
//! tables in its image and in its modules say all that modpost wrote (scripts/mod/modpost.c).
//!
//! The CRCs are copied, so they say nothing of the configuration that a build tree is made with:
//! whoever builds with this table has to check that by other means.

mod check;
mod headerless;
mod modules;
mod table;

use std::fs::File;
use std::io::Read;
use std::num::NonZero;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use object::{Object, ObjectSection};

pub use check::{CheckReport, Mismatch};

use self::modules::How;
use self::table::{Licence, Part, Table, Tables};
use super::{Exported, Image, Symvers};
use crate::compress::{Compression, Tail, unpack};

/// A shipped Module.symvers, packed and unpacked: the largest have 3 MB.
const MAX_TEXT: usize = 64 << 20;

impl Image {
    /// What the kernel itself exports (owner `vmlinux`); without the modules that come with it.
    ///
    /// # Errors
    /// No export tables found (a kernel without CONFIG_MODULES), or damaged ones.
    pub fn symvers(&self) -> Result<Symvers> {
        vmlinux(self)
    }
}

fn vmlinux(image: &Image) -> Result<Symvers> {
    let tables = if image.is_elf() {
        sections(image)?
    } else {
        headerless::find(image.kernel(), image.endian())?
    };
    let mut symvers = Symvers::default();
    for export in tables.read()? {
        symvers.insert(Exported { owner: "vmlinux".to_owned(), export });
    }
    Ok(symvers)
}

/// The tables of a kernel that is an ELF file.
fn sections(image: &Image) -> Result<Tables<'_>> {
    let elf = object::File::parse(image.kernel()).context("not a readable ELF file")?;
    let part = |name: &str| -> Result<Option<Part<'_>>> {
        let Some(section) = elf.section_by_name(name) else { return Ok(None) };
        let bytes = section.data().with_context(|| name.to_owned())?;
        Ok(Some(Part { bytes, address: section.address() }))
    };
    let strings = part("__ksymtab_strings")?;
    let strings = strings.context("no __ksymtab_strings: a kernel without CONFIG_MODULES?")?;
    let flags = part("__kflagstab")?.map(|part| part.bytes);
    let mut tables = Vec::new();
    for (table, crcs, gpl_only) in
        [("__ksymtab", "__kcrctab", false), ("__ksymtab_gpl", "__kcrctab_gpl", true)]
    {
        let Some(entries) = part(table)? else { continue };
        let crcs = part(crcs)?.unwrap_or_default().bytes;
        let licence = match flags {
            Some(flags) => Licence::Flags(flags),
            None => Licence::Table { gpl_only },
        };
        tables.push(Table { entries, crcs, licence });
    }
    ensure!(
        flags.is_none() || tables.len() == 1,
        "__kflagstab, but {} export tables",
        tables.len()
    );
    Ok(Tables { tables, strings, endian: image.endian() })
}

/// Module.symvers of the kernel in `image` and, where `modules` names their directory
/// (/usr/lib/modules/RELEASE), of every module below `modules`/kernel, read by `jobs` threads.
/// Of a symbol that is exported twice the first is taken, as modpost does it: the kernel's, then
/// that of the module whose path sorts first.
///
/// # Errors
/// The image has no export tables that can be read; a module cannot be read, or is for another
/// release than the image (it is named); no modules are there.
pub fn symvers(image: &Image, modules: Option<&Path>, jobs: usize) -> Result<Symvers> {
    let mut symvers = vmlinux(image)?;
    if let Some(dir) = modules {
        let release = image.release();
        modules::read(dir, strictly(release.as_deref(), jobs, false))?.add_to(&mut symvers);
    }
    Ok(symvers)
}

/// [`symvers`] with all modules that can be read, and why the others cannot; each error names its
/// file. Symbols of those are missing, and nothing says which.
///
/// # Errors
/// The image has no export tables that can be read; no modules are there.
pub fn symvers_as_far_as_read(
    image: &Image,
    modules: &Path,
    jobs: usize,
) -> Result<(Symvers, Vec<anyhow::Error>)> {
    let mut symvers = vmlinux(image)?;
    let release = image.release();
    let how = How { strict: false, ..strictly(release.as_deref(), jobs, false) };
    let mut found = modules::read(modules, how)?;
    let skipped = std::mem::take(&mut found.skipped);
    found.add_to(&mut symvers);
    Ok((symvers, skipped))
}

fn strictly(release: Option<&str>, jobs: usize, versions: bool) -> How<'_> {
    How { release, jobs, versions, strict: true }
}

/// [`symvers`] and [`check`] in one, so that each module is unpacked once.
///
/// # Errors
/// As [`symvers`].
pub fn checked(image: &Image, modules: &Path, jobs: usize) -> Result<(Symvers, CheckReport)> {
    let mut symvers = vmlinux(image)?;
    let release = image.release();
    let found = modules::read(modules, strictly(release.as_deref(), jobs, true))?;
    let versions = found.add_to(&mut symvers);
    let report = versions.compare(&symvers);
    Ok((symvers, report))
}

/// Compares each CRC that a shipped module was built against (`__versions`) with the table: the
/// proof that a recovered table is right, without another to compare it with. Where `release` is
/// given, all modules have to be for it.
///
/// # Errors
/// A module cannot be read or is for another release (it is named), or there are none below
/// `modules`/kernel. What differs is no error but in the report.
pub fn check(symvers: &Symvers, modules: &Path, release: Option<&str>) -> Result<CheckReport> {
    Ok(modules::read(modules, strictly(release, jobs(), true))?.versions.compare(symvers))
}

/// As many threads as this process has processors.
pub fn jobs() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// The Module.symvers that a distribution ships in a directory of modules, as those of the Fedora
/// family do: `symvers.gz`, `.xz` or `.zst`, or `symvers` itself.
pub fn shipped_file(modules: &Path) -> Option<PathBuf> {
    let names = ["symvers.gz", "symvers.xz", "symvers.zst", "symvers"];
    names.iter().map(|name| modules.join(name)).find(|path| path.is_file())
}

/// The table in [`shipped_file`]; `None` where there is none.
///
/// # Errors
/// It cannot be read, is damaged, or is no Module.symvers; it is named.
pub fn shipped(modules: &Path) -> Result<Option<Symvers>> {
    let Some(path) = shipped_file(modules) else { return Ok(None) };
    let read = || -> Result<Symvers> {
        let mut bytes = Vec::new();
        File::open(&path)?.take(MAX_TEXT as u64 + 1).read_to_end(&mut bytes)?;
        ensure!(bytes.len() <= MAX_TEXT, "larger than any Module.symvers");
        if Compression::of(&bytes).is_some() {
            bytes = unpack(&bytes, Tail::Streams, MAX_TEXT)?;
        }
        Symvers::parse(std::str::from_utf8(&bytes)?)
    };
    read().map(Some).with_context(|| format!("{}", path.display()))
}
