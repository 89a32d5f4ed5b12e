//! Recovers Module.symvers of a kernel that was built elsewhere. The export tables in the shipped
//! image and modules hold everything that modpost wrote (scripts/mod/modpost.c).
//!
//! The CRCs are copies, so they prove nothing about the configuration of a build tree. A caller
//! that builds with this table has to check the configuration by other means.

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

/// The maximum size of a shipped Module.symvers, packed or unpacked. The largest have 3 MB.
const MAX_TEXT: usize = 64 << 20;

impl Image {
    /// The exports of the kernel itself (owner `vmlinux`), without those of its modules.
    ///
    /// # Errors
    /// The kernel has no export tables (it was built without CONFIG_MODULES), or damaged ones.
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

/// Module.symvers of the kernel in `image`. If `modules` names a directory
/// (/usr/lib/modules/RELEASE), `jobs` threads also read every module below `modules`/kernel.
/// If a symbol is exported twice, the first export counts, as in modpost: the kernel's, then that
/// of the module whose path sorts first.
///
/// # Errors
/// The image has no readable export tables, there are no modules, or a module cannot be read or is
/// for another release than the image. The error names that module.
pub fn symvers(image: &Image, modules: Option<&Path>, jobs: usize) -> Result<Symvers> {
    let mut symvers = vmlinux(image)?;
    if let Some(dir) = modules {
        let release = image.release();
        modules::read(dir, strictly(release.as_deref(), jobs, false))?.add_to(&mut symvers);
    }
    Ok(symvers)
}

/// [`symvers`] with all modules that can be read, and an error for each of the others. Each error
/// names its file. The table lacks the symbols of those modules, and nothing says which they are.
///
/// # Errors
/// The image has no readable export tables, or there are no modules.
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

/// Compares each CRC that a shipped module was built against (`__versions`) with the table. This
/// proves that a recovered table is right, without a second table. If `release` is given, all
/// modules have to be for it.
///
/// # Errors
/// A module cannot be read or is for another release (the error names it), or there are no modules
/// below `modules`/kernel. Differences are no errors: they are in the report.
pub fn check(symvers: &Symvers, modules: &Path, release: Option<&str>) -> Result<CheckReport> {
    Ok(modules::read(modules, strictly(release, jobs(), true))?.versions.compare(symvers))
}

/// As many threads as this process has processors.
pub fn jobs() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// The Module.symvers that distributions of the Fedora family ship in the directory of modules:
/// `symvers.gz`, `.xz` or `.zst`, or `symvers` itself.
pub fn shipped_file(modules: &Path) -> Option<PathBuf> {
    let names = ["symvers.gz", "symvers.xz", "symvers.zst", "symvers"];
    names.iter().map(|name| modules.join(name)).find(|path| path.is_file())
}

/// The table in [`shipped_file`]; `None` if there is no such file.
///
/// # Errors
/// The file cannot be read, is damaged, or is no Module.symvers. The error names the file.
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
