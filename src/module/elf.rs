//! The ELF side of a module file: a relocatable object of either class and byte order.

use anyhow::{Context, Result, anyhow, bail, ensure};
use object::{Architecture, Object, ObjectKind, ObjectSection, ObjectSymbol, ReadRef};

use super::Head;
use super::info::{self, Info};
use super::limits::MAX_STRING;

/// A module file's bytes, opened for reading. Signatures and other bytes after the ELF object do
/// not matter.
#[derive(Debug)]
pub(super) struct Elf<'data, R: ReadRef<'data> = &'data [u8]> {
    pub(super) elf: object::File<'data, R>,
}

/// A symbol table entry, as far as the tables of a module need it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Symbol<'data> {
    pub name: &'data str,
    pub undefined: bool,
    pub weak: bool,
    pub global: bool,
}

/// The machine that this program is for, with 64 bits and little-endian. No other is supported.
const MACHINE: Architecture =
    if cfg!(target_arch = "aarch64") { Architecture::Aarch64 } else { Architecture::X86_64 };

/// The maximum number of sections. A larger number does not fit into the ELF header: it would be in
/// the first section.
const MAX_SECTIONS: usize = 0xffff;

/// Checks the number of sections and the length of their names. Sections are looked up by name
/// again and again, and each lookup reads all names.
///
/// # Errors
/// There are more sections, or longer names, than in any kernel or module.
pub(crate) fn check_sections<'data, R: ReadRef<'data>>(elf: &object::File<'data, R>) -> Result<()> {
    for (index, section) in elf.sections().enumerate() {
        ensure!(index < MAX_SECTIONS, "more than {MAX_SECTIONS} sections");
        // A section without a readable name does no harm: no lookup finds it.
        let length = section.name_bytes().map_or(0, <[u8]>::len);
        ensure!(length <= MAX_STRING, "section {index}: a name of {length} bytes");
    }
    Ok(())
}

impl<'data, R: ReadRef<'data>> Elf<'data, R> {
    /// Reads the ELF headers.
    pub(super) fn parse(data: R) -> Result<Elf<'data, R>> {
        let magic = data.read_bytes_at(0, 6).unwrap_or_default();
        if let Some(how) = crate::compress::Compression::of(magic) {
            bail!("compressed with {how}; decompress it first");
        }
        let elf = object::File::parse(data).context("not a readable ELF object")?;
        if elf.kind() != ObjectKind::Relocatable {
            bail!("an ELF file of kind {:?}, not the relocatable object a module is", elf.kind());
        }
        check_sections(&elf)?;
        Ok(Elf { elf })
    }

    /// `.modinfo`.
    pub(super) fn info(&self) -> Result<Info> {
        let section = self.elf.section_by_name(".modinfo");
        let section = section.context("no .modinfo section: not a kernel module")?;
        // If the file is not in memory, this bounds how much of it is read.
        let size = section.size();
        ensure!(size <= info::MAX_SECTION, ".modinfo: {size} bytes, more than any module has");
        Info::parse(section.data().context("section .modinfo")?)
    }

    /// Whose module it is.
    pub(super) fn head(&self) -> Result<Head> {
        let native = self.elf.architecture() == MACHINE && self.elf.is_little_endian();
        Ok(Head { info: self.info()?, native })
    }

    /// A section's contents; `None` when there is no such section.
    pub(super) fn section(&self, name: &str) -> Result<Option<&'data [u8]>> {
        match self.elf.section_by_name(name) {
            Some(s) => Ok(Some(s.data().with_context(|| format!("section {name}"))?)),
            None => Ok(None),
        }
    }

    /// Every named symbol of `.symtab`. A symbol whose name is too long is an error.
    pub(super) fn symbols(&self) -> impl Iterator<Item = Result<Symbol<'data>>> + '_ {
        self.elf.symbols().filter_map(|s| match s.name() {
            Ok("") => None,
            Ok(name) if name.len() > MAX_STRING => {
                Some(Err(anyhow!("symbol table: a name of {} bytes", name.len())))
            }
            Ok(name) => Some(Ok(Symbol {
                name,
                undefined: s.is_undefined(),
                weak: s.is_weak(),
                global: s.is_global(),
            })),
            Err(e) => Some(Err(e).context("symbol table")),
        })
    }

    /// Bytes of a `long` on the module's machine.
    pub(super) fn long(&self) -> usize {
        if self.elf.is_64() { 8 } else { 4 }
    }

    /// The `u32` at `offset` of `data`, in the module's byte order.
    pub(super) fn u32_at(&self, data: &[u8], offset: usize) -> Option<u32> {
        let bytes = data.get(offset..offset.checked_add(4)?)?.try_into().ok()?;
        Some(match self.elf.endianness() {
            object::Endianness::Little => u32::from_le_bytes(bytes),
            object::Endianness::Big => u32::from_be_bytes(bytes),
        })
    }
}
