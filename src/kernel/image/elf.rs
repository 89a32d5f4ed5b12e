//! A kernel that is an ELF file. A shipped kernel lacks only its symbol table.

use anyhow::{Context, Result, bail};
use object::read::elf::FileHeader;
use object::{Endianness, Object, ObjectKind, ObjectSection};

use crate::kernel::notes::notes;

/// A kernel has twenty notes. The bound is for hostile input: sections may overlap, so each byte
/// could be a note of all of them.
const MAX_NOTES: usize = 100_000;

/// Whether this is a linked program, not an object file such as a module.
pub(super) fn is_linked(kernel: &[u8]) -> Result<()> {
    let elf = object::File::parse(kernel).context("not a readable ELF file")?;
    crate::module::check_sections(&elf)?;
    match elf.kind() {
        ObjectKind::Executable | ObjectKind::Dynamic => Ok(()),
        other => bail!("an ELF file of kind {other:?}, not the linked program a kernel is"),
    }
}

/// A section's bytes.
pub(super) fn section<'a>(kernel: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let elf = object::File::parse(kernel).ok()?;
    elf.section_by_name(name)?.data().ok()
}

/// The descriptor of a note in the kernel's own `.notes`. The vDSO's notes are not found: they are
/// in an ELF file within `.rodata` or `.init.data`.
pub(super) fn note<'a>(kernel: &'a [u8], name: &[u8], kind: u32) -> Option<&'a [u8]> {
    let elf = object::File::parse(kernel).ok()?;
    elf.sections()
        .filter(|s| s.kind() == object::SectionKind::Note)
        .filter_map(|s| s.data().ok())
        .flat_map(|data| notes(data, elf.endianness()))
        .take(MAX_NOTES)
        .find(|note| note.name == name && note.kind == kind)
        .map(|note| note.desc)
}

/// The byte order; little-endian if the header cannot be read.
pub(super) fn endian(kernel: &[u8]) -> Endianness {
    let header = object::elf::FileHeader64::<Endianness>::parse(kernel);
    header.ok().and_then(|h| h.endian().ok()).unwrap_or(Endianness::Little)
}
